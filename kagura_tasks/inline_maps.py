"""Maps in this process: no Redis, no worker. What is known of one is gone with the process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

from kagura_tasks.errors import InvalidRequest, KaguraTasksError, MapExpired, TaskCancelled, TaskFailed
from kagura_tasks.files.asking import FileWork
from kagura_tasks.files.documents import FileRef, FileRow
from kagura_tasks.groups import Answer, LLMGroupResult, MapOutcome, MapProgress, stopped
from kagura_tasks.loops import LoopThread
from kagura_tasks.mapping import LeftOut, MapOrder, Planned, PlannedItem
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.outcomes import document_of, is_passed_over, labelled_documents
from kagura_tasks.maps.store import MapChanges
from kagura_tasks.plans import ReducePlan
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import Completion, CompletionRequest, Json
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.worker.budgets import dearest_usd
from kagura_tasks.worker.job import Job, OverBudget

T = TypeVar("T")

#: Sets aside what calls may cost together.
Pay = Callable[[Sequence[CompletionRequest]], Awaitable[None]]

#: Notes what became of an item's file.
Note = Callable[[FileRow], None]


class InlineItem(NamedTuple):
    """An item: the caller's name for it, or "", and what answers it under its task's id, on the loop of the calls."""

    custom_id: str
    answer: Callable[[str, Pay | None, Note], Awaitable[Completion]]


class InlineCalls(Protocol):
    """Whoever makes the calls of this process."""

    async def answer(self, job: Job) -> Completion:
        """The job's answer."""
        ...

    async def about(self, ref: FileRef, work: FileWork, task_id: str, pay: Pay | None, note: Note) -> Completion:
        """The answer about a file."""
        ...

    async def reduction(self, plan: ReducePlan, before: object, task_id: str) -> Completion:
        """The answer to what came before."""
        ...

    def begin(self, name: StreamName, work: Coroutine[Any, Any, Completion]) -> LLMResult:
        """Start work that ends with an answer; its handle."""
        ...

    def result(self, task_id: str, tenant: str | None = None) -> LLMResult:
        """The handle of work that was begun."""
        ...


#: How long the pace is measured: by so many of the latest ends.
_PACE: Final = 256


class InlineMaps:
    """Starts maps of this process, and finds them for as long as they run, or somebody has their handle."""

    def __init__(self, calls: InlineCalls, loop: LoopThread, window: int) -> None:
        """Take who makes the calls, the event loop where that is, and the items at a time where nobody says."""
        self._calls = calls
        self._loop = loop
        self._window = window
        self._maps: WeakValueDictionary[MapName, InlineMap] = WeakValueDictionary()

    def start(self, order: MapOrder, items: Iterable[Planned]) -> LLMGroupResult:
        """See Maps."""
        name = MapName(order.tenant, order.map_id)
        if name in self._maps:
            changes = MapChanges(window=order.window, budget_usd=order.budget_usd)
            return self.resume(order.map_id, order.tenant, changes)
        started = InlineMap(name, order, self._loop)
        for one in items:
            started.add(one if isinstance(one, LeftOut) else self._item(order, one))
        self._maps[name] = started
        self._loop.run(started.resume(MapChanges(False, order.window or self._window, order.budget_usd)))
        if order.reduce is not None:
            _ = self._calls.begin(StreamName(name.tenant, name.reduce_id), self._reduce(started, order.reduce, name))
        return LLMGroupResult(order.map_id, started)

    def reduction(self, map_id: str, tenant: str) -> LLMResult:
        """See Maps."""
        return self._calls.result(MapName(tenant, map_id).reduce_id, tenant)

    def group(self, map_id: str, tenant: str) -> LLMGroupResult:
        """See Maps."""
        return LLMGroupResult(map_id, self._find(map_id, tenant))

    def resume(self, map_id: str, tenant: str, changes: MapChanges) -> LLMGroupResult:
        """See Maps."""
        found = self._find(map_id, tenant)
        self._loop.run(found.resume(changes))
        return LLMGroupResult(map_id, found)

    def _item(self, order: MapOrder, planned: PlannedItem) -> InlineItem:
        request = planned.request
        if isinstance(request, CompletionRequest):
            return InlineItem(planned.custom_id, partial(self._answered, request))
        if order.files is None:
            raise InvalidRequest("a file was given, and nothing to ask about it")
        return InlineItem(planned.custom_id, partial(self._calls.about, request, order.files))

    async def _answered(self, request: CompletionRequest, task_id: str, pay: Pay | None, note: Note) -> Completion:
        return await self._calls.answer(Job(request, task_id, before_call=partial(pay, (request,)) if pay else None))

    async def _reduce(self, parts: InlineMap, plan: ReducePlan, name: MapName) -> Completion:
        before = await parts.documents()
        return await self._calls.reduction(plan, before, name.reduce_id)

    def _find(self, map_id: str, tenant: str) -> InlineMap:
        found = self._maps.get(MapName(tenant, map_id))
        if found is None:
            raise MapExpired(map_id)
        return found


class InlineMap:
    """The items of a map of this process, and how they ended. It lives on the loop of the calls. See GroupSource."""

    def __init__(self, name: MapName, order: MapOrder, loop: LoopThread) -> None:
        """Take what is asked for. Starts nothing yet."""
        self._name = name
        self._order = order
        self._items: list[InlineItem] = []
        self._left_out: list[tuple[int, FileRow]] = []
        self._rows: dict[int, FileRow] = {}
        self._loop = loop
        self._state = "paused"
        self._window = 1
        self._room = 1
        self._budget_usd: float | None = None
        self._reserved_usd: dict[int, float] = {}
        self._open: deque[int] = deque()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._outcomes: dict[int, MapOutcome] = {}
        self._failed = 0
        self._spent_usd = 0.0
        self._ended: list[int | None] = []
        self._ended_at: list[float] = []
        self._news = asyncio.Condition()

    def add(self, item: InlineItem | LeftOut) -> None:
        """Add an item, before the map is started; or what was found beside the items."""
        if isinstance(item, LeftOut):
            self._left_out.append((len(self._items), item.row))
        else:
            self._items.append(item)

    async def resume(self, changes: MapChanges) -> None:
        """Work on all that has no outcome; with `retry_failed`, on what failed as well."""
        self._window = self._room = changes.window or self._window
        self._budget_usd = changes.budget_usd or self._budget_usd
        if changes.retry_failed:
            self._forget_failures()
        every = range(len(self._items))
        self._open = deque(index for index in every if index not in self._outcomes and index not in self._running)
        self._state = "running"
        await self._advance()

    def outcomes(self, after: int) -> AsyncGenerator[list[MapOutcome]]:
        """See GroupSource."""
        return self._follow(self._page, after)

    def ordered(self, after: int) -> AsyncGenerator[list[MapOutcome]]:
        """See GroupSource."""
        return self._follow(self._ordered_page, after)

    async def documents(self) -> list[Json]:
        """All outcomes as JSON, in the order of the items, once they are there. For the loop of the calls.

        Of a map over files, each text has the file's name above it, and what was passed over is none of them.
        """
        while await self._next(self._page, len(self._ended)):
            pass
        every = [self._outcomes[index] for index in range(len(self._items))]
        if self._order.files is None:
            return [document_of(outcome.answer) for outcome in every]
        return labelled_documents((outcome.custom_id, outcome.answer) for outcome in every)

    async def total(self) -> int:
        """See GroupSource."""
        return len(self._items)

    async def progress(self) -> MapProgress:
        """See GroupSource."""
        return await self._there(self._progress())

    async def about(self) -> dict[str, str]:
        """See GroupSource."""
        return dict(self._order.about)

    async def rows(self, indexes: Sequence[int]) -> list[FileRow | None]:
        """See GroupSource."""
        return [self._rows.get(index) for index in indexes]

    async def left_out(self) -> list[tuple[int, FileRow]]:
        """See GroupSource."""
        return list(self._left_out)

    async def pause(self) -> None:
        """See GroupSource."""
        await self._there(self._stop("paused"))

    async def cancel(self) -> None:
        """See GroupSource."""
        await self._there(self._stop("cancelled"))

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work returns, on the loop of the calls."""
        return await asyncio.wrap_future(self._loop.submit(work))

    async def _follow(self, page: Callable[[int], list[MapOutcome]], cursor: int) -> AsyncGenerator[list[MapOutcome]]:
        while outcomes := await self._there(self._next(page, cursor)):
            cursor = outcomes[-1].cursor
            yield outcomes

    async def _next(self, page: Callable[[int], list[MapOutcome]], cursor: int) -> list[MapOutcome]:
        """Outcomes behind the cursor, once there are some; none when the map is over. Raises what ended it early."""
        async with self._news:
            while not (outcomes := page(cursor)):
                if self._state == "done":
                    return []
                if self._state == "cancelled":
                    raise TaskCancelled(self._name.map_id)
                if self._state in ("failed", "over_budget"):
                    raise stopped(self._name.map_id, await self._progress())
                await self._news.wait()
            return outcomes

    def _page(self, cursor: int) -> list[MapOutcome]:
        ended = enumerate(self._ended[cursor:], cursor + 1)
        return [self._at(index, at) for at, index in ended if index is not None]

    def _ordered_page(self, cursor: int) -> list[MapOutcome]:
        page: list[MapOutcome] = []
        while (index := cursor + len(page)) in self._outcomes:
            page.append(self._at(index, index + 1))
        return page

    def _at(self, index: int, cursor: int) -> MapOutcome:
        outcome = self._outcomes[index]
        return MapOutcome(index, outcome.custom_id, outcome.completion, outcome.error, cursor)

    async def _advance(self) -> None:
        """Start as many items as there is room for, and tell those who follow."""
        while self._state == "running" and len(self._running) < min(self._window, self._room):
            if not self._open:
                self._state = "running" if self._running else "done"
                break
            index = self._open.popleft()
            self._running[index] = asyncio.create_task(self._work(index), name="kagura-map-item")
        async with self._news:
            self._news.notify_all()

    async def _work(self, index: int) -> None:
        try:
            answer = await self._answered(index)
        except OverBudget:
            await self._refuse(index)
            return
        self._outcomes[index] = MapOutcome.of(index, self._items[index].custom_id, answer, 0)
        self._count(answer)
        self._ended.append(index)
        self._ended_at = [*self._ended_at[1 - _PACE :], asyncio.get_running_loop().time()]
        most = self._order.max_failed(len(self._items))
        if most >= 0 and self._failed > most and self._state == "running":
            self._state = "failed"
        await self._advance()

    async def _answered(self, index: int) -> Answer:
        """The answer, or its error. Raises OverBudget where the item has to wait for money."""
        pay = None if self._budget_usd is None else partial(self._reserve, index)
        try:
            return await self._items[index].answer(
                self._name.task_id(index), pay, partial(self._rows.__setitem__, index)
            )
        except OverBudget:
            raise
        except KaguraTasksError as error:
            return error
        except Exception as error:  # noqa: BLE001 (a defect of one item is no reason to lose the others)
            return TaskFailed(type(error).__name__)
        finally:
            del self._running[index]
            self._reserved_usd.pop(index, None)

    def _count(self, answer: Answer) -> None:
        self._room += 1
        if isinstance(answer, KaguraTasksError):
            self._failed += not is_passed_over(answer)
        elif not answer.cached:
            self._spent_usd += answer.usage.cost_usd or 0.0

    async def _reserve(self, index: int, requests: Sequence[CompletionRequest]) -> None:
        """Set aside what the calls may cost together at most. Raises OverBudget or PriceUnknown."""
        usd = sum([await dearest_usd(request) for request in requests])
        others = sum(aside for other, aside in self._reserved_usd.items() if other != index)
        if self._spent_usd + others + usd > (self._budget_usd or 0.0):
            raise OverBudget(self._name.task_id(index))
        self._reserved_usd[index] = usd

    async def _refuse(self, index: int) -> None:
        """Let the item wait until others cost less than was set aside for them; where there are none, stop."""
        self._open.appendleft(index)
        self._room = len(self._running)
        if not self._running and self._state == "running":
            self._state = "over_budget"
        await self._advance()

    async def _stop(self, state: str) -> None:
        if self._state not in ("done", "cancelled"):
            self._state = state
        if state == "cancelled":
            for task in list(self._running.values()):
                task.cancel()
        await self._advance()

    def _forget_failures(self) -> None:
        for at, index in enumerate(self._ended):
            if index is not None and (error := self._outcomes[index].error) and not is_passed_over(error):
                del self._outcomes[index]
                self._ended[at] = None
        self._failed = 0

    async def _progress(self) -> MapProgress:
        answers = [one.completion for one in self._outcomes.values() if one.completion is not None]
        paid = [answer.usage for answer in answers if not answer.cached]
        since_s = asyncio.get_running_loop().time() - self._ended_at[0] if self._ended_at else 0.0
        return MapProgress(
            self._state,
            total=len(self._items),
            done=len(self._outcomes) - self._failed,
            failed=self._failed,
            cached=len(answers) - len(paid),
            in_flight=len(self._running),
            prompt_tokens=sum(usage.prompt_tokens for usage in paid),
            completion_tokens=sum(usage.completion_tokens for usage in paid),
            cost_usd=self._spent_usd,
            budget_usd=self._budget_usd,
            rate_per_s=(len(self._ended_at) - 1) / since_s if since_s and len(self._ended_at) > 1 else 0.0,
        )
