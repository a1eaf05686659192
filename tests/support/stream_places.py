"""Streams as their writers and readers see them, wherever they are, and what one reads out of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from kagura_tasks import Settings
from kagura_tasks.schemas import Completion, Usage
from kagura_tasks.streaming.events import Chunk, Event, Reset, Start
from kagura_tasks.streaming.local import LocalStreams
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.outlet import StreamOutlet, StreamTerms
from kagura_tasks.streaming.publisher import publisher
from kagura_tasks.streaming.subscriber import Subscriber


@dataclass
class Place:
    """Where streams are."""

    settings: Settings
    is_local: bool
    _local: LocalStreams | None = field(default=None, repr=False)

    @property
    def outlet(self) -> StreamOutlet:
        """Who sends what this loop's writers say."""
        if not self.is_local:
            return publisher(self.settings)
        self._local = self._local or LocalStreams(StreamTerms.from_settings(self.settings))
        return self._local

    def batches(self, name: StreamName, after: int = 0) -> AsyncGenerator[list[Event]]:
        """A reader."""
        if isinstance(self.outlet, LocalStreams):
            self.outlet.reserve(name)
            return self.outlet.batches(name, after)
        return Subscriber(self.settings, name, after, is_ours=True).batches()

    def forget(self) -> None:
        """Begin anew, on another event loop perhaps."""
        self._local = None

    async def read(self, name: StreamName, after: int = 0, most: int | None = None) -> list[Event]:
        """What a reader gets, up to the end, or so many events."""
        events: list[Event] = []
        async with aclosing(self.batches(name, after)) as batches:
            async for batch in batches:
                events += batch
                if most is not None and len(events) >= most:
                    return events[:most]
        return events


def whole(text: str) -> Completion:
    """The answer with this text."""
    return Completion(text=text, model="m", finish_reason="stop", usage=Usage(total_tokens=3))


def text_of(events: Iterable[Event]) -> str:
    """The text of the last attempt."""
    pieces: list[str] = []
    for event in events:
        if isinstance(event, Start | Reset):
            pieces = []
        elif isinstance(event, Chunk):
            pieces.append(event.text)
    return "".join(pieces)


def numbers(events: Iterable[Event]) -> list[int]:
    """Theirs, in order."""
    return [event.seq for event in events]


async def until_quiet() -> None:
    """All that was written is sent: writers collect for 20 ms at most."""
    await asyncio.sleep(0.05)
