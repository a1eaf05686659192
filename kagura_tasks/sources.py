"""Where answers come from: what a result and a stream know of the calls behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import aclosing
from typing import Final, Protocol

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.loops import LoopThread
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.streaming.events import Done, Event, TextSoFar
from kagura_tasks.streaming.replay import events_of

#: Where synchronous callers wait, so that all of them share one connection to Redis.
WAITING: Final = LoopThread("kagura-waiting")


class AnswerSource(Protocol):
    """Where an answer comes from, as a whole or in pieces."""

    async def answer(self, timeout_s: float | None) -> Completion:
        """The answer, within so many seconds. See LLMResult.get for what it raises."""
        ...

    def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """The events of its stream behind this number, as they come. See Subscriber.batches for what it raises."""
        ...

    def status(self) -> str:
        """Celery's word for where the task is."""
        ...

    def cancel(self) -> None:
        """Keep the task from being started, and end the call that runs."""
        ...


class Remembered:
    """An answer that the cache had: no task, nothing to wait for."""

    def __init__(self, completion: Completion) -> None:
        """Take the answer."""
        self.completion = completion

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource."""
        return self.completion

    async def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource."""
        if events := [event for event in events_of(self.completion) if event.seq > after]:
            yield events

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

    async def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource. What is read from its beginning to its end is kept."""
        text = TextSoFar(after)
        async with aclosing(self._source.batches(after)) as batches:
            async for events in batches:
                for event in events:
                    text.note(event)
                    if isinstance(event, Done) and text.is_whole:
                        await self._cache.remember(self._request, event.completion(text.text))
                yield events

    def status(self) -> str:
        """See AnswerSource."""
        return self._source.status()

    def cancel(self) -> None:
        """See AnswerSource."""
        self._source.cancel()


class Sent:
    """An answer whose request is being sent in the background."""

    def __init__(self, source: Future[AnswerSource]) -> None:
        """Take the source, which is there once the request is sent."""
        self._source = source

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource. Also raises what kept the request from being sent."""
        return await (await self._sent()).answer(timeout_s)

    async def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource. Also raises what kept the request from being sent."""
        async with aclosing((await self._sent()).batches(after)) as batches:
            async for events in batches:
                yield events

    def status(self) -> str:
        """See AnswerSource."""
        return self._source.result().status()

    def cancel(self) -> None:
        """See AnswerSource."""
        self._source.result().cancel()

    async def _sent(self) -> AnswerSource:
        # Shielded: whoever gives up waiting does not keep it from being sent.
        return await asyncio.shield(asyncio.wrap_future(self._source))
