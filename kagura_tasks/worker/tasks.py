"""The workers' doors: JSON in, JSON out. No thinking here."""

from __future__ import annotations

from celery import Celery, Task

from kagura_tasks.plans import OnError, ReducePlan
from kagura_tasks.queues import TaskName
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.worker.doors import Payload, checked, delivery_of, door, finished
from kagura_tasks.worker.map_tasks import register_maps
from kagura_tasks.worker.runtime import Runtime


def register(app: Celery, runtime: Runtime) -> None:
    """Add the tasks to the app."""

    @door(app, TaskName.COMPLETE)
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
            job = delivery_of(task, tries).job(checked(CompletionRequest, payload), looked_up, stream)
            return runtime.run(job)

        again = {"looked_up": True, **({"stream": True} if stream else {})}
        return finished(task, answer, on_error, (payload,), again)

    @door(app, TaskName.REDUCE)
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
            return runtime.wait_for(runtime.reduction(checked(ReducePlan, plan), before, delivery_of(task, tries)))

        return finished(task, answer, on_error, (before,), {"plan": plan})

    del complete, reduce
    _register_routing(app, runtime)
    register_maps(app, runtime)


def _register_routing(app: Celery, runtime: Runtime) -> None:
    @door(app, TaskName.ROUTE)
    def route(task: Task[..., Payload], payload: Payload, tries: Payload | None = None) -> Payload:
        """One query, decided and answered."""

        def answer() -> Completion:
            return runtime.wait_for(runtime.routed(checked(RouteOrder, payload), delivery_of(task, tries)))

        return finished(task, answer, "raise", (payload,), {})

    @door(app, TaskName.EMBED)
    def embed(task: Task[..., Payload], payload: Payload, tries: Payload | None = None) -> Payload:
        """The vectors of some texts."""

        def answer() -> Completion:
            job = delivery_of(task, tries).job(checked(CompletionRequest, payload))
            return runtime.wait_for(runtime.embedded(job))

        return finished(task, answer, "raise", (payload,), {})

    del route, embed
