"""A reader in a thread of its own, so that a test may do harm while it reads."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from kagura_tasks.streaming.events import Chunk, Event
from kagura_tasks.streams import LLMStream
from tests.support.stream_places import text_of
from tests.support.wait import until


class Reading:
    """Reads a stream to its end in the background.

    Attributes:
        stream: What is read.
        events: What was read so far.
        error: What ended the reading, if not the stream's end.
    """

    def __init__(self, stream: LLMStream) -> None:
        """Begin."""
        self.stream = stream
        self.events: list[Event] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def until_text(self, attempt: int = 1, pieces: int = 2) -> None:
        """Wait until so many pieces of that attempt's text are there."""
        until(lambda: self.error or self._pieces_of(attempt) >= pieces, what=f"text of attempt {attempt}")
        if self.error is not None:
            raise self.error

    def until_over(self, timeout_s: float = 40.0) -> Event:
        """Wait for the end; the last event."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"no end within {timeout_s:g} s after {self.kinds[-3:]}"
        if self.error is not None:
            raise self.error
        return self.events[-1]

    @property
    def kinds(self) -> list[str]:
        """What was read, without text and heartbeats."""
        return [event.kind for event in self.events if event.kind not in ("chunk", "heartbeat")]

    @property
    def text(self) -> str:
        """The text of the last attempt."""
        return text_of(self.events)

    def _pieces_of(self, attempt: int) -> int:
        return sum(isinstance(event, Chunk) and event.attempt == attempt for event in list(self.events))

    def _read(self) -> None:
        try:
            for event in self.stream.events():
                self.events.append(event)
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits for the end)
            self.error = error


def all_text(events: Iterable[Event]) -> str:
    """Every piece of text in them, of whatever attempt."""
    return "".join(event.text for event in events if isinstance(event, Chunk))
