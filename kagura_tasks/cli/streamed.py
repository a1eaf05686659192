"""A stream on the screen: its text as it comes, or one event a line for machines."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from kagura_tasks.errors import StreamRestarted

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.streaming.events import Event
    from kagura_tasks.streams import LLMStream


def show(stream: LLMStream, screen: Screen) -> None:
    """Show what is left of the stream. Raises what ended it without an answer."""
    printer = _Events(stream.id) if screen.as_json else _Text(stream, screen)
    with stream:
        for event in stream.events():
            printer.show(event)
            _raise_if_bad(event, stream)


class _Events:
    """JSON lines."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id

    def show(self, event: Event) -> None:
        print(json.dumps({"id": self._task_id, **event.model_dump(mode="json")}), flush=True)


class _Text:
    """The text alone. In a terminal, people can be told to forget what they read; a pipe cannot."""

    def __init__(self, stream: LLMStream, screen: Screen) -> None:
        self._stream = stream
        self._screen = screen
        self._is_terminal = sys.stdout.isatty()
        self._has_shown = False

    def show(self, event: Event) -> None:
        from kagura_tasks.cli.screen import printable

        match event.kind:
            case "chunk":
                print(printable(event.text) if self._is_terminal else event.text, end="", flush=True)
                self._has_shown = True
            case "reset" if self._has_shown:
                self._forget()
            case "gap":
                self._screen.note(f"warning: the events {event.first} to {event.seq} are not kept any more")
            case "done":
                self._finish(event.finish_reason)
            case _:
                self._end_line(event.kind)

    def _forget(self) -> None:
        if not self._is_terminal:
            raise StreamRestarted(self._stream.id, self._stream.attempt)
        print(flush=True)
        self._screen.note(f"the model begins anew (attempt {self._stream.attempt}): what is above is void")
        self._has_shown = False

    def _finish(self, finish_reason: str) -> None:
        print(flush=True)
        if finish_reason not in ("stop", "tool_calls"):
            self._screen.note(f"warning: the answer is not complete (finish_reason: {finish_reason or 'none'})")

    def _end_line(self, kind: str) -> None:
        if self._has_shown and kind in ("error", "cancelled", "lost"):
            print(flush=True)


def _raise_if_bad(event: Event, stream: LLMStream) -> None:
    from kagura_tasks.streams import is_text

    if event.kind != "gap":
        _ = is_text(event, stream.id)
