"""Streams of one process: the same events, kept in memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from itertools import takewhile
from typing import NamedTuple

from kagura_tasks.errors import StreamExpired
from kagura_tasks.streaming.events import Ending, Event, Gap, Reset, Start, parse
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.outlet import StreamOutlet, StreamTerms
from kagura_tasks.streaming.writer import Claim, Reply, Step, StreamWriter


class _Entry(NamedTuple):
    event: Event
    size_bytes: int


class _Log:
    """What is kept of one stream."""

    def __init__(self) -> None:
        self.entries: deque[_Entry] = deque()
        self.attempt = self.seq = self.size_bytes = 0
        self.is_ended = False
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def append(self, event: Event, size_bytes: int, most_bytes: int) -> None:
        self.entries.append(_Entry(event, size_bytes))
        self.seq, self.attempt, self.is_ended = event.seq, event.attempt, isinstance(event, Ending)
        self.size_bytes += size_bytes
        while self.size_bytes > most_bytes and len(self.entries) > 1:
            self.size_bytes -= self.entries.popleft().size_bytes
        self.news.set_result(None)
        self.news = asyncio.get_running_loop().create_future()

    def behind(self, seq: int) -> list[Event]:
        """The events behind this number, with a Gap where the first of them are gone."""
        # Whoever asks for what is beyond the end is told the end.
        seq = self.seq - 1 if self.is_ended and seq > self.seq else seq
        events = [entry.event for entry in takewhile(lambda entry: entry.event.seq > seq, reversed(self.entries))]
        events.reverse()
        if events and events[0].seq > seq + 1:
            first = events[0]
            return [Gap(seq=first.seq - 1, attempt=first.attempt, at_ms=first.at_ms, first=seq + 1), *events]
        return events


class LocalStreams(StreamOutlet):
    """The streams of one event loop. A stream can be read for `stream_ttl_s` after its last event."""

    def __init__(self, terms: StreamTerms) -> None:
        """Have no streams."""
        super().__init__(terms)
        self._logs: dict[StreamName, _Log] = {}

    def reserve(self, name: StreamName) -> None:
        """Make a stream known before it begins."""
        self._logs.setdefault(name, _Log())

    def wake(self, writer: StreamWriter, *, urgent: bool) -> None:
        """See writer.Outlet. Nothing is gained by collecting."""
        self.reserve(writer.name)
        stream = self._logs[writer.name]
        while (step := writer.step()) is not None:
            self._take(stream, writer, step)
            if stream.is_ended:
                asyncio.get_running_loop().call_later(self._terms.ttl_s, self._logs.pop, writer.name, None)

    async def batches(self, name: StreamName, after: int) -> AsyncGenerator[list[Event]]:
        """The events behind this number, as they come. Raises StreamExpired where there is no such stream."""
        stream = self._logs.get(name)
        if stream is None:
            raise StreamExpired(name.task_id)
        while True:
            news = stream.news
            if events := stream.behind(after):
                after = events[-1].seq
                yield events
            if stream.is_ended:
                return
            if not events:
                await asyncio.shield(news)

    def _take(self, stream: _Log, writer: StreamWriter, step: Step) -> None:
        if stream.is_ended:
            writer.settle(Reply.ENDED)
        elif isinstance(step, Claim):
            attempt, seq = max(stream.attempt + 1, step.least_attempt), stream.seq + 1
            kind = Start if seq == 1 else Reset
            self._append(stream, kind(seq=seq, attempt=attempt, at_ms=int(time.time() * 1000)).model_dump_json())
            writer.settle(Reply.OK, attempt, seq)
        elif step.attempt != stream.attempt:
            writer.settle(Reply.TAKEN)
        else:
            for payload in step.payloads:
                self._append(stream, payload.decode())
            writer.settle(Reply.OK)

    def _append(self, stream: _Log, payload: str) -> None:
        event = parse(payload.encode())
        if event is not None:
            stream.append(event, len(payload), self._terms.log_bytes)
