"""Server-sent events out of the bytes of a connection, however those were cut on their way."""

from __future__ import annotations

from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event, or a line, has more bytes than anybody wants to keep."""


class EventStream:
    """Takes bytes as they come, and gives the data of each event that they complete.

    Names, ids, comments and waits are passed over. What no empty line has ended is no event.
    """

    def __init__(self, max_event_bytes: int) -> None:
        """Take how large an event may be."""
        self._line = _Pieces(max_event_bytes)  # whose end has not come
        self._data = _Pieces(max_event_bytes)  # of an event whose end has not come
        self._at_start = True
        self._after_return = False

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that this part completes. Raises EventTooLarge."""
        if self._after_return and part.startswith(b"\n"):
            part = part[1:]  # the second half of \r\n
        if not part:
            return []
        self._after_return = part.endswith(b"\r")
        return self._events_in(self._lines_in(part))

    def _lines_in(self, part: bytes) -> list[bytes]:
        lines = part.splitlines()
        rest = b"" if part.endswith((b"\n", b"\r")) else lines.pop()
        if lines and self._line.held:
            self._line.add(lines[0])
            lines[0] = self._line.take(b"")
        if rest:
            self._line.add(rest)
        if lines and self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        return lines

    def _events_in(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.add(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data.held:
                events.append(self._data.take(b"\n"))
        return events


class _Pieces:
    """Bytes that belong together and came one after the other."""

    def __init__(self, max_bytes: int) -> None:
        self.held: list[bytes] = []
        self._size = 0
        self._max_bytes = max_bytes

    def add(self, piece: bytes) -> None:
        self.held.append(piece)
        self._size += len(piece) + 1  # empty ones take room, too
        if self._size > self._max_bytes:
            raise EventTooLarge

    def take(self, between: bytes) -> bytes:
        whole = self.held[0] if len(self.held) == 1 else between.join(self.held)
        self.held.clear()
        self._size = 0
        return whole
