"""A completion that is told while it is made: its stream begins, fills and ends as the answer does."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import RedisError

from kagura_tasks.errors import KaguraTasksError, TaskCancelled
from kagura_tasks.providers.provider import Provider
from kagura_tasks.schemas import Completion, CompletionRequest, Usage
from kagura_tasks.streaming.events import Chunk, Event, Gap, Reset, Start
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.writer import StreamTaken, StreamWriter
from kagura_tasks.worker.job import Job, TakenAway

log = logging.getLogger(__name__)


class Streams(Protocol):
    """The streams that workers write, and read where they follow another's call."""

    def open(self, job: Job) -> StreamWriter:
        """Begin the job's stream, or a further attempt at it."""
        ...

    def batches(self, name: StreamName, after: int = 0) -> AsyncGenerator[list[Event]]:
        """The events of a stream behind this number, as they come."""
        ...


@dataclass
class _Leader:
    """Another task whose stream is handed on: how far it was read, and whether nothing of its text was missing."""

    task_id: str
    cursor: int = 0
    is_whole: bool = True


class Telling:
    """One job, told."""

    def __init__(self, job: Job, streams: Streams, provider: Provider) -> None:
        """Take the job; its stream begins at once."""
        self._job = job
        self._streams = streams
        self._provider = provider
        self._writer = streams.open(job)
        self._calls = 0
        self._leader = _Leader("")

    async def told(self, answer: Awaitable[Completion]) -> Completion:
        """The answer. The stream ends as it does, unless somebody else will go on with it."""
        try:
            completion = await self._whole(answer)
            await self._writer.done(completion)
            return completion
        except TaskCancelled:
            used = await self._used()
            self._job.tally.ended_early(used)
            await self._writer.cancelled(used)
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
        return await self._provider.stream(request, timeout_s, self._write)

    def _write(self, text: str) -> None:
        self._job.tally.chunk()
        self._writer.write(text)

    async def relay(self, task_id: str) -> None:
        """Hand on what another task streams, whose answer will be this one's, too. See single_flight.Relay.

        Called again for the same task, it goes on where it was.
        """
        if task_id != self._leader.task_id:
            self._leader = _Leader(task_id)
        name = StreamName(self._job.request.tenant, task_id)
        try:
            async with aclosing(self._streams.batches(name, self._leader.cursor)) as batches:
                async for events in batches:
                    for event in events:
                        self._hand_on(event, self._leader)
        except (KaguraTasksError, RedisError, StreamTaken) as error:
            # Its answer is awaited all the same, and makes up for what is missing.
            log.warning("a stream cannot be followed any further (%s)", type(error).__name__)

    def _hand_on(self, event: Event, leader: _Leader) -> None:
        leader.cursor = event.seq
        match event:
            case Start() | Reset():
                # This one's text so far may be that of a leader before.
                leader.is_whole = True
                if self._writer.text:
                    self._writer.restart()
            case Gap():
                leader.is_whole = False
            case Chunk() if leader.is_whole:
                self._writer.write(event.text)
            case _:
                pass

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
