"""The workers' doors: JSON in, JSON out. No thinking here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from celery import Celery, Task, states
from celery.exceptions import Ignore, Reject
from kombu.utils.uuid import uuid
from pydantic import ValidationError

from kagura_tasks.app import REDACTED
from kagura_tasks.dead_letters import ATTEMPT_HEADER
from kagura_tasks.errors import InvalidRequest, KaguraTasksError, TaskCancelled
from kagura_tasks.maps.names import MapName
from kagura_tasks.metrics import tallies
from kagura_tasks.metrics.queue_wait import queue_wait_s
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.plans import OnError, ReducePlan, enveloped
from kagura_tasks.queues import TaskName
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion, CompletionRequest, Wire, problems_of
from kagura_tasks.worker.job import Delivery, HandedBack, OverBudget, RetryLater, TakenAway
from kagura_tasks.worker.map_items import outcomes_of, reserve, take
from kagura_tasks.worker.map_outcomes import MapOutcomes
from kagura_tasks.worker.retries import Tries
from kagura_tasks.worker.runtime import Runtime

Payload = dict[str, Any]

W = TypeVar("W", bound=Wire)


class PrivateTask(Task[..., Payload]):
    """A task whose arguments and results appear in no event, no log and not in Flower."""

    #: It waits through `parking`: on the asyncio pool it needs no thread.
    runs_on_loop = True

    #: Celery shows this many characters of a result: none.
    resultrepr_maxsize: int = 0

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Celery's own; a retry comes through here too, and would show the arguments otherwise."""
        return super().apply_async(*args, **{"argsrepr": REDACTED, "kwargsrepr": REDACTED, **options})


def register(app: Celery, runtime: Runtime) -> None:
    """Add the tasks to the app. What they need of Celery's settings they bring along, so the app's own may differ."""

    @_door(app, TaskName.COMPLETE)
    def complete(
        task: Task[..., Payload],
        payload: Payload,
        looked_up: bool = False,
        stream: bool = False,
        tries: Payload | None = None,
        on_error: OnError = "raise",
    ) -> Payload:
        """One completion."""

        def answer() -> Completion:
            job = _delivery(task, tries).job(_checked(CompletionRequest, payload))
            return runtime.run(replace(job, looked_up=looked_up, is_streamed=stream))

        again = {"looked_up": True, **({"stream": True} if stream else {})}
        return _finished(task, answer, on_error, (payload,), again)

    @_door(app, TaskName.REDUCE)
    def reduce(
        task: Task[..., Payload],
        before: object = None,
        *,
        plan: Payload,
        on_error: OnError = "raise",
        tries: Payload | None = None,
    ) -> Payload:
        """One completion of what came before."""

        def answer() -> Completion:
            return runtime.wait_for(runtime.reduction(_checked(ReducePlan, plan), before, _delivery(task, tries)))

        return _finished(task, answer, on_error, (before,), {"plan": plan})

    @_door(app, TaskName.MAP_ITEM, backend=MapOutcomes(app, runtime.settings), ignore_result=False)
    def map_item(
        task: Task[..., Payload], tenant: str, map_id: str, token: str, tries: Payload | None = None
    ) -> Payload:
        """One item of a map. Its outcome is kept in the map, and nowhere else."""
        name, delivery = MapName(tenant, map_id), _delivery(task, tries)

        async def answer() -> Completion:
            taken = await take(runtime.settings, name, token, delivery.task_id)
            request = _checked(CompletionRequest, taken.request)
            paid = partial(reserve, runtime.settings, name, delivery.task_id, request) if taken.has_budget else None
            try:
                return await runtime.answer(replace(delivery.job(request), before_call=paid))
            except OverBudget:
                raise TakenAway from None

        # From before its request is taken: a map that is cancelled then has not told anybody who would not hear it.
        item = partial(runtime.item, name, delivery.task_id, answer)
        return _finished(task, lambda: runtime.wait_for(item()), "raise", (tenant, map_id, token), {})

    @_door(app, TaskName.REDUCE_MAP)
    def reduce_map(
        task: Task[..., Payload], tenant: str, map_id: str, *, plan: Payload, tries: Payload | None = None
    ) -> Payload:
        """One completion of all that a map came to."""
        name, delivery = MapName(tenant, map_id), _delivery(task, tries)

        async def answer() -> Completion:
            outcomes = await outcomes_of(runtime.settings, name)
            return await runtime.reduction(_checked(ReducePlan, plan), outcomes, delivery)

        return _finished(task, lambda: runtime.wait_for(answer()), "raise", (tenant, map_id), {"plan": plan})

    del complete, reduce, map_item, reduce_map
    _register_routing(app, runtime)


def _register_routing(app: Celery, runtime: Runtime) -> None:
    @_door(app, TaskName.ROUTE)
    def route(task: Task[..., Payload], payload: Payload, tries: Payload | None = None) -> Payload:
        """One query, decided and answered."""

        def answer() -> Completion:
            return runtime.wait_for(runtime.routed(_checked(RouteOrder, payload), _delivery(task, tries)))

        return _finished(task, answer, "raise", (payload,), {})

    @_door(app, TaskName.EMBED)
    def embed(task: Task[..., Payload], payload: Payload, tries: Payload | None = None) -> Payload:
        """The vectors of some texts."""

        def answer() -> Completion:
            job = _delivery(task, tries).job(_checked(CompletionRequest, payload))
            return runtime.wait_for(runtime.embedded(job))

        return _finished(task, answer, "raise", (payload,), {})

    del route, embed


def _door(app: Celery, name: str, **options: Any) -> Callable[[Callable[..., Payload]], Task[..., Payload]]:
    return app.task(
        name=name,
        bind=True,
        base=PrivateTask,
        serializer="json",
        acks_late=True,
        reject_on_worker_lost=True,
        max_retries=None,
        throws=(KaguraTasksError,),
        **options,
    )


def _finished(
    task: Any, answer: Callable[[], Completion], on_error: OnError, args: tuple[object, ...], again: Payload
) -> Payload:
    """The task's result. A transient failure with a long wait goes to Celery's retry, with these arguments.

    What is collected ends the task well, and so does a cancellation then: a chord goes on with the others.
    """
    collects = on_error == "collect"
    try:
        completion = answer()
        if tally := tallies.tally_of(task.request):
            tally.is_cached = completion.cached
        return completion.model_dump(mode="json")
    except TakenAway:
        raise Ignore from None
    except HandedBack:
        raise Reject(requeue=True) from None
    except RetryLater as later:
        again = {**again, "tries": vars(later.tries), **({"on_error": on_error} if collects else {})}
        raise task.retry(args=args, kwargs=again, exc=later.cause, countdown=later.wait_s) from None
    except KaguraTasksError as error:
        if collects:
            return enveloped(error)
        if isinstance(error, TaskCancelled):
            tallies.cancelled(task.request)
            _announce_cancelled(task, error)
            raise Ignore from None
        raise


def _announce_cancelled(task: Any, error: TaskCancelled) -> None:
    """Tell what Celery tells of a revoked task. A record is written already, but for an item's: that is in its map."""
    if task.name == TaskName.MAP_ITEM:
        task.backend.store_result(task.request.id, error, states.REVOKED, request=task.request)
    task.send_event("task-revoked", terminated=False, signum=None, expired=False)
    if task.request.chord:
        task.backend.on_chord_part_return(task.request, states.REVOKED, error)


def _delivery(task: Any, tries: Payload | None) -> Delivery:
    context = task.request
    properties = cast("dict[str, object]", context.properties or {})
    tally = Tally(task.name, queue_wait_s=queue_wait_s(context))
    tallies.begin(context, tally)
    return Delivery(
        # A task that calls this one as a function (`chunks` does) has an id; the call has none.
        task_id=str(context.id or uuid()),
        delivery_tag=str(properties.get("delivery_tag", "")),
        attempt=int(getattr(context, ATTEMPT_HEADER, None) or 1),
        tries=Tries(**tries) if tries else None,
        may_leave=not context.called_directly,
        tally=tally,
    )


def _checked(kind: type[W], payload: Payload) -> W:
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error)) from None
