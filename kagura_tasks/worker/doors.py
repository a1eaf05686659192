"""What every task of a worker has in common: how it is declared, what it is given, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from celery import Celery, Task, states
from celery.exceptions import Ignore, Reject
from kombu.utils.uuid import uuid
from pydantic import ValidationError

from kagura_tasks.app import REDACTED
from kagura_tasks.dead_letters import ATTEMPT_HEADER
from kagura_tasks.errors import InvalidRequest, KaguraTasksError, TaskCancelled
from kagura_tasks.metrics import tallies
from kagura_tasks.metrics.queue_wait import queue_wait_s
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.plans import OnError, enveloped
from kagura_tasks.schemas import Completion, Wire, problems_of
from kagura_tasks.worker.coming_back import come_back
from kagura_tasks.worker.job import Delivery, HandedBack, HandedOn, RetryLater, TakenAway
from kagura_tasks.worker.map_outcomes import MapOutcomes
from kagura_tasks.worker.retries import Tries

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


def door(app: Celery, name: str, **options: Any) -> Callable[[Callable[..., Payload]], Task[..., Payload]]:
    """Make a function a task. What it needs of Celery's settings it brings along, so the app's own may differ."""
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


def finished(
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
    except (TakenAway, HandedOn):
        raise Ignore from None
    except HandedBack:
        raise Reject(requeue=True) from None
    except RetryLater as later:
        again = {**again, **({"on_error": on_error} if collects else {})}
        raise come_back(task, args, again, later) from None
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
    if isinstance(task.backend, MapOutcomes):
        task.backend.store_result(task.request.id, error, states.REVOKED, request=task.request)
    task.send_event("task-revoked", terminated=False, signum=None, expired=False)
    if task.request.chord:
        task.backend.on_chord_part_return(task.request, states.REVOKED, error)


def delivery_of(task: Any, tries: Payload | None) -> Delivery:
    """The message that this task is done for."""
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


def checked(kind: type[W], payload: Payload) -> W:
    """What the payload says. Raises InvalidRequest."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error)) from None
