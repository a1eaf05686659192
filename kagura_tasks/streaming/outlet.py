"""What all outlets of streams share: their terms, their open writers, and the writers' heartbeats."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from kagura_tasks.settings import Settings
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.writer import StreamWriter

#: How many times in a heartbeat's interval silent writers are looked for.
_LOOKS: Final = 4


@dataclass(frozen=True)
class StreamTerms:
    """How streams are written. See Settings."""

    ttl_s: int
    log_bytes: int
    heartbeat_s: float
    coalesce_s: float
    coalesce_bytes: int

    @classmethod
    def from_settings(cls, settings: Settings) -> StreamTerms:
        """The terms that the settings describe. A log must not end between two heartbeats."""
        return cls(
            ttl_s=settings.stream_ttl_s,
            log_bytes=settings.stream_log_bytes,
            heartbeat_s=min(settings.stream_heartbeat_s, settings.stream_ttl_s / 3),
            coalesce_s=settings.stream_coalesce_ms / 1000,
            coalesce_bytes=settings.stream_coalesce_bytes,
        )


class StreamOutlet(ABC):
    """Where the writers of one event loop send their steps. See writer.Outlet."""

    def __init__(self, terms: StreamTerms) -> None:
        """Take the terms. Nothing happens before there is a writer."""
        self._terms = terms
        self._writers: set[StreamWriter] = set()
        self._pulse: asyncio.TimerHandle | None = None

    def open(self, name: StreamName, mark: str = "", least_attempt: int = 1) -> StreamWriter:
        """A writer; its stream begins at once, in the background. For the other arguments, see StreamWriter."""
        writer = StreamWriter(name, self, mark, least_attempt, self._terms.coalesce_bytes)
        self._writers.add(writer)
        if self._pulse is None:
            self._feel_pulse()
        return writer

    @abstractmethod
    def wake(self, writer: StreamWriter, *, urgent: bool) -> None:
        """See writer.Outlet."""

    def close(self, writer: StreamWriter) -> None:
        """See writer.Outlet."""
        self._writers.discard(writer)

    def _feel_pulse(self) -> None:
        """Let writers that were silent for long say that they live."""
        # Those that would be silent for too long before the next look.
        silent_since = time.monotonic() - self._terms.heartbeat_s * (1 - 1 / _LOOKS)
        for writer in [writer for writer in self._writers if writer.last_at <= silent_since]:
            writer.beat()
        looks_again_s = self._terms.heartbeat_s / _LOOKS
        self._pulse = None
        if self._writers:
            self._pulse = asyncio.get_running_loop().call_later(looks_again_s, self._feel_pulse)
