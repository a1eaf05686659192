"""The doors of maps: their items, the files of items, and what all of it is reduced to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from celery import Celery, Task

from kagura_tasks.files.asking import AskedFile
from kagura_tasks.maps.names import MapName
from kagura_tasks.plans import ReducePlan
from kagura_tasks.queues import TaskName
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.worker.doors import Payload, checked, delivery_of, door, finished
from kagura_tasks.worker.job import OverBudget, TakenAway
from kagura_tasks.worker.map_items import outcomes_of, reserve, take
from kagura_tasks.worker.map_outcomes import MapOutcomes
from kagura_tasks.worker.runtime import Runtime


def register_maps(app: Celery, runtime: Runtime) -> None:
    """Add the tasks to the app. The outcomes of items are kept in their map, and nowhere else."""
    outcomes = MapOutcomes(app, runtime.settings)

    @door(app, TaskName.MAP_ITEM, backend=outcomes, ignore_result=False)
    def map_item(
        task: Task[..., Payload], tenant: str, map_id: str, token: str, tries: Payload | None = None
    ) -> Payload:
        """One item of a map."""
        name, delivery = MapName(tenant, map_id), delivery_of(task, tries)

        async def answer() -> Completion:
            taken = await take(runtime.settings, name, token, delivery.task_id)
            request = checked(CompletionRequest, taken.request)
            paid = partial(reserve, runtime.settings, name, delivery.task_id, (request,)) if taken.has_budget else None
            try:
                return await runtime.answer(replace(delivery.job(request), before_call=paid))
            except OverBudget:
                raise TakenAway from None

        # From before its request is taken: a map that is cancelled then has not told anybody who would not hear it.
        item = partial(runtime.item, name, delivery.task_id, answer)
        return finished(task, lambda: runtime.wait_for(item()), "raise", (tenant, map_id, token), {})

    @door(app, TaskName.LOAD_FILE, backend=outcomes, ignore_result=False)
    def load_file(task: Task[..., Payload], tenant: str, map_id: str, token: str) -> Payload:
        """The file of an item: what is asked of it is another task, and the item goes on with that."""
        name, delivery = MapName(tenant, map_id), delivery_of(task, None)
        item = partial(runtime.item, name, delivery.task_id, partial(runtime.files.hand_on, name, token, delivery))
        return finished(task, lambda: runtime.wait_for(item()), "raise", (tenant, map_id, token), {})

    @door(app, TaskName.ANSWER_FILE, backend=outcomes, ignore_result=False)
    def answer_file(
        task: Task[..., Payload], tenant: str, map_id: str, token: str, tries: Payload | None = None
    ) -> Payload:
        """What is asked of a file that was loaded."""
        name, delivery = MapName(tenant, map_id), delivery_of(task, tries)

        async def answer() -> Completion:
            taken = await take(runtime.settings, name, token, delivery.task_id)
            asked = checked(AskedFile, taken.request)
            paid = partial(reserve, runtime.settings, name, delivery.task_id, asked.asks) if taken.has_budget else None
            try:
                return await runtime.file_answer(asked, delivery, paid)
            except OverBudget:
                raise TakenAway from None

        item = partial(runtime.item, name, delivery.task_id, answer)
        return finished(task, lambda: runtime.wait_for(item()), "raise", (tenant, map_id, token), {})

    @door(app, TaskName.REDUCE_MAP)
    def reduce_map(
        task: Task[..., Payload],
        tenant: str,
        map_id: str,
        *,
        plan: Payload,
        labelled: bool = False,
        tries: Payload | None = None,
    ) -> Payload:
        """One completion of all that a map came to."""
        name, delivery = MapName(tenant, map_id), delivery_of(task, tries)

        async def answer() -> Completion:
            outcomes = await outcomes_of(runtime.settings, name, labelled=labelled)
            return await runtime.reduction(checked(ReducePlan, plan), outcomes, delivery)

        again = {"plan": plan, **({"labelled": True} if labelled else {})}
        return finished(task, lambda: runtime.wait_for(answer()), "raise", (tenant, map_id), again)

    del map_item, load_file, answer_file, reduce_map
