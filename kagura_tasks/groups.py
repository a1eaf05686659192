"""Many answers under one id: the handle of a map, for both worlds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from kagura_tasks.errors import KaguraTasksError, MapBudgetExceeded, MapFailed, ResultTimeout, TaskFailed
from kagura_tasks.files.documents import FileRow
from kagura_tasks.requests import Prompt
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.sources import WAITING

Answer = Completion | KaguraTasksError

#: The error of an outcome that somebody made without one.
_NEITHER: Final = TaskFailed("UnknownResult", "the outcome has neither a completion nor an error")


@dataclass(frozen=True)
class MapItem:
    """One item of a map, with a name of the caller's own.

    Attributes:
        prompt: A text, chat turns, or a request of `LLMClient.request`.
        custom_id: The name; it comes back with the outcome.
    """

    prompt: Prompt | CompletionRequest
    custom_id: str = ""


@dataclass(frozen=True)
class MapOutcome:
    """How an item of a map ended: with a completion, or with an error.

    Attributes:
        index: Its place among the items, from 0.
        custom_id: The name that the caller gave it, or "".
        completion: The answer; None where there is an error.
        error: What kept it from an answer; None where there is one.
        cursor: What to give as `after`, to go on reading behind this one.
    """

    index: int
    custom_id: str = ""
    completion: Completion | None = None
    error: KaguraTasksError | None = None
    cursor: int = 0

    @classmethod
    def of(cls, index: int, custom_id: str, answer: Answer, cursor: int) -> MapOutcome:
        """The outcome that this answer is."""
        if isinstance(answer, Completion):
            return cls(index, custom_id, completion=answer, cursor=cursor)
        return cls(index, custom_id, error=answer, cursor=cursor)

    @property
    def answer(self) -> Answer:
        """The completion, or the error."""
        return self.completion or self.error or _NEITHER

    def get(self) -> Completion:
        """The completion. Raises the error where there is none."""
        if self.completion is None:
            raise self.error or _NEITHER
        return self.completion


@dataclass(frozen=True)
class MapProgress:
    """How far a map is.

    Attributes:
        state: "running", "paused", "cancelled", "failed" (more items than `on_error` allows), "over_budget", "done", or
            "uploading" while items are still added. One that was cancelled then has none: it was never started.
        total: Items.
        done: Items with an answer.
        failed: Items with an error.
        cached: Items whose answer cost nothing: remembered, or shared with an equal one.
        in_flight: Items that are in queues or with workers.
        prompt_tokens: Tokens of the prompts of all calls that were paid for.
        completion_tokens: Tokens of their answers.
        cost_usd: Their price; calls of models that LiteLLM has no price for count nothing.
        budget_usd: What they may cost together; None: there is no limit.
        rate_per_s: Items that end a second, by the latest 256.
        eta_s: Seconds until all have ended at that rate; None where none has ended yet.
    """

    state: str
    total: int
    done: int = 0
    failed: int = 0
    cached: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    budget_usd: float | None = None
    rate_per_s: float = 0.0

    @property
    def was_started(self) -> bool:
        """All items were added; a map that was not can only be sent again."""
        return self.state != "uploading" and (self.total > 0 or self.state != "cancelled")

    @property
    def settled(self) -> int:
        """Items that have ended."""
        return self.done + self.failed

    @property
    def total_tokens(self) -> int:
        """Tokens of all calls that were paid for."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def eta_s(self) -> float | None:
        """Seconds until all have ended."""
        left = self.total - self.settled
        if not left:
            return 0.0
        return left / self.rate_per_s if self.rate_per_s else None


def stopped(map_id: str, progress: MapProgress) -> KaguraTasksError:
    """What a map that stopped by itself raises."""
    if progress.state == "over_budget":
        return MapBudgetExceeded(map_id, progress.budget_usd or 0.0, progress.cost_usd)
    return MapFailed(map_id, progress.failed, progress.total)


class GroupSource(Protocol):
    """Where the outcomes of a map come from."""

    def outcomes(self, after: int) -> AsyncGenerator[list[MapOutcome]]:
        """Outcomes in order of completion, behind this cursor, as they come. See LLMGroupResult for what it raises."""
        ...

    def ordered(self, after: int) -> AsyncGenerator[list[MapOutcome]]:
        """Outcomes in the order of the items, behind so many, as they come."""
        ...

    async def total(self) -> int:
        """How many items there are."""
        ...

    async def progress(self) -> MapProgress:
        """How far it is."""
        ...

    async def about(self) -> dict[str, str]:
        """What the caller wanted to find again."""
        ...

    async def rows(self, indexes: Sequence[int]) -> list[FileRow | None]:
        """What became of the files of these items, as far as somebody looked at them."""
        ...

    async def left_out(self) -> list[tuple[int, FileRow]]:
        """What was found among the files and is no item, each with the number of items before it."""
        ...

    async def pause(self) -> None:
        """Start no further item."""
        ...

    async def cancel(self) -> None:
        """Start no further item, and end those that run."""
        ...


class GroupHandle:
    """What is common to the handles of many answers under one id. See LLMGroupResult.

    Attributes:
        id: The map's id; with it, any process can follow it (`LLMClient.group`), or go on (`LLMClient.resume_map`).
        source: Where its outcomes come from.
    """

    def __init__(self, map_id: str, source: GroupSource) -> None:
        """Take the map's id, and where its outcomes come from."""
        self.id = map_id
        self.source = source

    def progress(self) -> MapProgress:
        """How far the map is, now."""
        return WAITING.run(self.aprogress())

    async def aprogress(self) -> MapProgress:
        """The same, without blocking the event loop."""
        return await self.source.progress()

    def status(self) -> str:
        """The map's state in a word. See MapProgress."""
        return self.progress().state

    async def astatus(self) -> str:
        """The same, without blocking the event loop."""
        return (await self.aprogress()).state

    def about(self) -> dict[str, str]:
        """What was given as `about` when it was started."""
        return WAITING.run(self.source.about())

    def pause(self) -> None:
        """Start no further item. Those in flight end, and are kept; `LLMClient.resume_map` goes on.

        Raises InvalidRequest while items are still added: cancel it, or pause it once it is started.
        """
        WAITING.run(self.source.pause())

    async def apause(self) -> None:
        """The same, without blocking the event loop."""
        await self.source.pause()

    def cancel(self) -> None:
        """Start no further item, and end the calls that run. What was answered is kept.

        While items are still added, whoever adds them is told (TaskCancelled), and none is ever sent.
        """
        WAITING.run(self.source.cancel())

    async def acancel(self) -> None:
        """The same, without blocking the event loop."""
        await self.source.cancel()

    def __repr__(self) -> str:
        """The id alone: answers may be long, and private."""
        return f"<{type(self).__name__} {self.id}>"


class LLMGroupResult(GroupHandle):
    """The answers to many prompts, there or on their way. Iterate it with `for` or `async for`, in order of completion.

    Failed items do not raise: each has its typed error in its place. What raises is what befell the map as a whole:

    - MapFailed: more items failed than `on_error` allows. What was answered is kept.
    - BudgetExceeded: `budget_usd` has no room for a further call. What was answered is kept.
    - MapExpired: there is no such map, or none any more.
    - TaskCancelled: the map was cancelled.
    - ResultTimeout: no item ended for so long. The map goes on.
    - RedisUnreachable: Redis did not answer for so long.
    """

    def get(self, timeout_s: float | None = None) -> list[Answer]:
        """All answers, in the order of the items: a Completion, or the item's error, in each place.

        Args:
            timeout_s: Seconds to wait at most; default: for as long as items end, `KAGURA_TASKS_WAIT_TIMEOUT_S` apart.
        """
        return WAITING.run(self.aget(timeout_s))

    async def aget(self, timeout_s: float | None = None) -> list[Answer]:
        """The same, without blocking the event loop."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._all()
        except TimeoutError as error:
            raise error if isinstance(error, ResultTimeout) else ResultTimeout(self.id, timeout_s or 0.0) from None

    def __await__(self) -> Generator[Any, None, list[Answer]]:
        """`await result` is `await result.aget()`."""
        return self.aget().__await__()

    def stream(self, after: int = 0) -> Outcomes[MapOutcome]:
        """The outcomes in order of completion, while the map runs. For `for`, and for `async for`.

        Args:
            after: `MapOutcome.cursor`, or `Outcomes.cursor`, of the last one that was read; 0 reads all.
        """
        return Outcomes(self.source.outcomes, after)

    def __iter__(self) -> Iterator[MapOutcome]:
        """See `stream`."""
        return iter(self.stream())

    def __aiter__(self) -> AsyncIterator[MapOutcome]:
        """See `stream`."""
        return aiter(self.stream())

    def in_order(self, after: int = 0) -> Outcomes[MapOutcome]:
        """The outcomes in the order of the items, behind the first so many; each once those before it are there."""
        return Outcomes(self.source.ordered, after)

    async def _all(self) -> list[Answer]:
        answers: dict[int, Answer] = {}
        async with aclosing(self.source.outcomes(0)) as pages:
            async for page in pages:
                answers.update((outcome.index, outcome.answer) for outcome in page)
        # Not before: nobody knows how many there are while they are added.
        total = await self.source.total()
        return [answers.get(index, _NEITHER) for index in range(total)]


class HasCursor(Protocol):
    """An outcome that knows where to go on reading behind it."""

    @property
    def cursor(self) -> int:
        """What to give as `after`."""
        ...


Read = TypeVar("Read", bound=HasCursor)


class Outcomes(Generic[Read]):
    """The outcomes of a map, as they come. What was read is not given again: a second loop goes on where one left.

    Attributes:
        cursor: That of the last one that was read.
    """

    def __init__(self, open_pages: Callable[[int], AsyncGenerator[list[Read]]], after: int) -> None:
        """Take what reads them, and the cursor behind which it begins."""
        self.cursor = after
        self._open_pages = open_pages
        self._ready: deque[Read] = deque()

    def __iter__(self) -> Iterator[Read]:
        """Each outcome."""
        yield from self._take_ready()
        pages = self._open_pages(self.cursor)
        try:
            while page := WAITING.run(_next_of(pages)):
                self._ready.extend(page)
                yield from self._take_ready()
        finally:
            WAITING.run(pages.aclose())

    async def __aiter__(self) -> AsyncIterator[Read]:
        """The same, without blocking the event loop."""
        for outcome in self._take_ready():
            yield outcome
        async with aclosing(self._open_pages(self.cursor)) as pages:
            async for page in pages:
                self._ready.extend(page)
                for outcome in self._take_ready():
                    yield outcome

    def _take_ready(self) -> Iterator[Read]:
        while self._ready:
            outcome = self._ready.popleft()
            self.cursor = outcome.cursor
            yield outcome


async def _next_of(pages: AsyncGenerator[list[Read]]) -> list[Read]:
    over: list[Read] = []
    return await anext(pages, over)


class MapReduceResult(LLMResult):
    """The one answer that many were reduced to, there or on its way.

    Attributes:
        parts: The answers to the items.
    """

    def __init__(self, result: LLMResult, parts: LLMGroupResult) -> None:
        """Take the handle of the reduction, and that of the map behind it."""
        super().__init__(result.id, result.source)
        self.parts = parts
