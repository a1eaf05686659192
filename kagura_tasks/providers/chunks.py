"""Reads OpenAI's chunks: the events that a streamed chat completion comes in."""

from __future__ import annotations

import json
from typing import Any, Final, cast

from kagura_tasks.errors import ProviderUnavailable
from kagura_tasks.providers import wire
from kagura_tasks.providers.written import Written
from kagura_tasks.schemas import CompletionRequest, Json

#: The last event.
DONE: Final = b"[DONE]"


class ChunkReader:
    """Reads chunk after chunk into what has been written.

    Attributes:
        model: The name that was asked for.
        usage: The newest that came, as it came.
    """

    def __init__(self, request: CompletionRequest, written: Written) -> None:
        """Take what is asked, and what has been answered."""
        self.model = request.model
        self._request = request
        self._written = written
        self._about: Json = {}
        self.usage: object = None

    def read(self, data: bytes) -> None:
        """Take one event. Raises ProviderError where it is an error or cannot be read, and what the receiver raises."""
        try:
            chunk = cast(object, json.loads(data.decode()))
        except (ValueError, RecursionError):
            raise self._unreadable() from None
        if not isinstance(chunk, dict):
            raise self._unreadable()
        piece = self._piece_in(cast("dict[str, Any]", chunk))
        if piece:
            self._written.add_text(piece)

    def answer(self, used: Json) -> Json:
        """The whole as a plain answer, but for the text."""
        return {**self._about, **self._written.as_answer(), "usage": used}

    def _piece_in(self, chunk: dict[str, Any]) -> str:
        """The text in a chunk; all else in it is kept."""
        if chunk.get("error"):
            raise wire.error_within(chunk["error"], self._request)
        usage = chunk.get("usage")
        if usage or not self._about:
            self.usage = usage
            self._about = {name: self._about.get(name) or chunk.get(name) for name in ("model", "service_tier")}
        choices = chunk.get("choices")
        if not choices:
            return ""
        choice = cast("list[object]", choices)[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            raise self._unreadable()
        return self._piece_of(cast("dict[str, Any]", choice))

    def _piece_of(self, choice: dict[str, Any]) -> str:
        # Another answer than the first; nobody asked for it.
        if choice.get("index"):
            return ""
        if reason := choice.get("finish_reason"):
            self._finish(reason)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return ""
        held = cast("dict[str, Any]", delta)
        if calls := held.get("tool_calls"):
            self._add_calls(calls)
        content = held.get("content")
        if not isinstance(content, str | None):
            raise self._unreadable()
        return content or ""

    def _add_calls(self, calls: object) -> None:
        pieces = cast("list[object]", calls) if isinstance(calls, list) else [None]
        if not all(isinstance(piece, dict) for piece in pieces):
            raise self._unreadable()
        self._written.add_calls(cast("list[Json]", pieces))

    def _finish(self, reason: object) -> None:
        if not isinstance(reason, str):
            raise self._unreadable()
        # A gateway's word for a failure that it noticed after it had begun to answer.
        if reason == "error":
            raise ProviderUnavailable(wire.FAILED_LATER, self.model)
        self._written.finish_reason = reason

    def _unreadable(self) -> ProviderUnavailable:
        return ProviderUnavailable(wire.UNREADABLE, self.model)
