"""Answers that are there, or on their way: one handle for both worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from kagura_tasks.schemas import Completion
from kagura_tasks.sources import WAITING, AnswerSource, Remembered
from kagura_tasks.streams import LLMStream


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

    def stream(self, after: int = 0) -> LLMStream:
        """The answer while it is written, from behind the event of this number on.

        A task that was submitted with `stream=True` streams; any other gives all of its text at its end.
        """
        return LLMStream(self.id, self.source, after)

    def status(self) -> str:
        """Celery's word for where the task is: PENDING, RETRY, SUCCESS, FAILURE or REVOKED."""
        return self.source.status()

    async def astatus(self) -> str:
        """The same, without blocking the event loop."""
        return await asyncio.to_thread(self.source.status)

    def cancel(self) -> None:
        """End the task: a queued one is not started, a running call is closed. Whoever waits gets TaskCancelled.

        An answer that is there stays.
        """
        self.source.cancel()

    async def acancel(self) -> None:
        """The same, without blocking the event loop."""
        await asyncio.to_thread(self.source.cancel)

    def __repr__(self) -> str:
        """The id alone: an answer may be long, and private."""
        return f"<LLMResult {self.id}>"
