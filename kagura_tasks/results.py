"""Answers that are there, or on their way: one handle for both worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Final, Protocol

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.loops import LoopThread
from kagura_tasks.schemas import Completion, CompletionRequest

#: Where synchronous callers wait, so that all of them share one connection to Redis.
WAITING: Final = LoopThread("kagura-waiting")


class AnswerSource(Protocol):
    """Where an answer comes from."""

    async def answer(self, timeout_s: float | None) -> Completion:
        """The answer, within so many seconds. See LLMResult.get for what it raises."""
        ...

    def status(self) -> str:
        """Celery's word for where the task is."""
        ...

    def cancel(self) -> None:
        """Keep the task from being started."""
        ...


class LLMResult:
    """An answer that is there, or on its way. Like Celery's AsyncResult, and awaitable.

    Attributes:
        id: The task's id; an answer that was remembered has one too, though no task ran.
        source: Where the answer comes from.
    """

    def __init__(self, task_id: str, source: AnswerSource) -> None:
        """Take the task's id, and where its answer comes from."""
        self.id = task_id
        self.source = source

    def get(self, timeout_s: float | None = None) -> Completion:
        """The answer; blocks for `timeout_s` seconds at most (default: `KAGURA_TASKS_WAIT_TIMEOUT_S`).

        Raises:
            ResultTimeout: No answer yet. The task goes on, and `get` may be called again.
            TaskCancelled: The task was cancelled.
            ProviderError: The model's side failed; the class says how.
            RedisUnreachable: Redis did not answer for all that time.
        """
        if isinstance(self.source, Remembered):
            return self.source.completion
        return WAITING.run(self.source.answer(timeout_s))

    async def aget(self, timeout_s: float | None = None) -> Completion:
        """The same, without blocking the event loop."""
        return await self.source.answer(timeout_s)

    def __await__(self) -> Generator[Any, None, Completion]:
        """`await result` is `await result.aget()`."""
        return self.aget().__await__()

    def status(self) -> str:
        """Celery's word for where the task is: PENDING, RETRY, SUCCESS, FAILURE or REVOKED."""
        return self.source.status()

    async def astatus(self) -> str:
        """The same, without blocking the event loop."""
        return await asyncio.to_thread(self.source.status)

    def cancel(self) -> None:
        """Keep the task from being started; whoever waits for it gets TaskCancelled. An answer that is there stays."""
        self.source.cancel()

    async def acancel(self) -> None:
        """The same, without blocking the event loop."""
        await asyncio.to_thread(self.source.cancel)

    def __repr__(self) -> str:
        """The id alone: an answer may be long, and private."""
        return f"<LLMResult {self.id}>"


class Remembered:
    """An answer that the cache had: no task, nothing to wait for."""

    def __init__(self, completion: Completion) -> None:
        """Take the answer."""
        self.completion = completion

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource."""
        return self.completion

    def status(self) -> str:
        """See AnswerSource."""
        return "SUCCESS"

    def cancel(self) -> None:
        """See AnswerSource. The answer is there, and stays."""


class RememberedHere:
    """An answer on its way, which this process's own cache will keep as well."""

    def __init__(self, source: AnswerSource, cache: LLMCache, request: CompletionRequest) -> None:
        """Take where the answer comes from, who keeps it, and what it answers."""
        self._source = source
        self._cache = cache
        self._request = request

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource."""
        completion = await self._source.answer(timeout_s)
        await self._cache.remember(self._request, completion)
        return completion

    def status(self) -> str:
        """See AnswerSource."""
        return self._source.status()

    def cancel(self) -> None:
        """See AnswerSource."""
        self._source.cancel()
