"""A completion that is told while it is made: its stream begins, fills and ends as the answer does."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Protocol

from redis.exceptions import RedisError

from kagura_tasks.errors import KaguraTasksError, TaskCancelled
from kagura_tasks.providers.provider import Provider
from kagura_tasks.schemas import Completion, CompletionRequest, Usage
from kagura_tasks.streaming.events import Chunk, Event, Reset
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.writer import StreamTaken, StreamWriter
from kagura_tasks.worker.job import Job, TakenAway

log = logging.getLogger(__name__)


class Streams(Protocol):
    """The streams that workers write, and read where they follow another's call."""

    def open(self, job: Job) -> StreamWriter:
        """Begin the job's stream, or a further attempt at it."""
        ...

    def batches(self, name: StreamName) -> AsyncGenerator[list[Event]]:
        """The events of a stream, from its beginning, as they come."""
        ...


class Telling:
    """One job, told."""

    def __init__(self, job: Job, streams: Streams, provider: Provider) -> None:
        """Take the job; its stream begins at once."""
        self._job = job
        self._streams = streams
        self._provider = provider
        self._writer = streams.open(job)
        self._calls = 0

    async def told(self, answer: Awaitable[Completion]) -> Completion:
        """The answer. The stream ends as it does, unless somebody else will go on with it."""
        try:
            completion = await self._whole(answer)
            await self._writer.done(completion)
            return completion
        except TaskCancelled:
            await self._writer.cancelled(await self._used())
            raise
        except KaguraTasksError as error:
            await self._writer.failed(error)
            raise
        finally:
            self._writer.leave()

    async def call(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """Call the provider, and hand its text on. Each further call is a new attempt."""
        if self._calls or self._writer.text:
            self._writer.restart()
        self._calls += 1
        return await self._provider.stream(request, timeout_s, self._writer.write)

    async def relay(self, task_id: str) -> None:
        """Hand on what another task streams, whose answer will be this one's, too. See single_flight.Relay."""
        try:
            async for events in self._streams.batches(StreamName(self._job.request.tenant, task_id)):
                for event in events:
                    self._hand_on(event)
        except (KaguraTasksError, RedisError, StreamTaken) as error:
            # Its answer is awaited all the same, and makes up for what is missing.
            log.warning("a stream cannot be followed any further (%s)", type(error).__name__)

    def _hand_on(self, event: Event) -> None:
        if isinstance(event, Chunk):
            self._writer.write(event.text)
        elif isinstance(event, Reset) and self._writer.text:
            self._writer.restart()

    async def _whole(self, answer: Awaitable[Completion]) -> Completion:
        try:
            completion = await answer
            self._writer.fill_up(completion.text)
            return completion
        except StreamTaken:
            raise TakenAway from None

    async def _used(self) -> Usage:
        """What the call had used that was ended. Whoever only followed another's has used nothing."""
        return await self._provider.count(self._job.request, self._writer.text) if self._calls else Usage()
