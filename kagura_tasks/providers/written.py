"""An answer while it is being written: its text is handed over, and what else comes is kept for the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, cast

from kagura_tasks.errors import RequestRefused
from kagura_tasks.providers.provider import HandOver
from kagura_tasks.schemas import Json

#: A larger answer is no answer: it would only fill the worker's memory. In characters, of tools' arguments as well.
MAX_CHARACTERS: Final = 64 * 2**20


class Written:
    """What a model has said so far.

    Attributes:
        model: The name that was asked for.
        finish_reason: As it came; None as long as it has not: a stream that ends so was cut.
        calls: The tools that are called.
    """

    def __init__(self, model: str, hand_over: HandOver) -> None:
        """Take the name that errors give the model, and who gets the text."""
        self.model = model
        self._hand_over = hand_over
        self._pieces: list[str] = []
        self._half = ""  # of a character
        self._room = MAX_CHARACTERS
        self.finish_reason: str | None = None
        self.calls = Calls()

    @property
    def text(self) -> str:
        """What was handed over."""
        return "".join(self._pieces)

    @property
    def counted_text(self) -> str:
        """All that the model wrote, to be counted."""
        return self.text + "".join(str(call["function"]) for call in self.calls.to_json())

    def add_text(self, piece: str) -> None:
        """Hand a piece over. Raises what its receiver raises."""
        if self._half or not piece.isascii():
            piece = self._mended(piece)
        if piece:
            self._take_room(len(piece))
            self._pieces.append(piece)
            self._hand_over(piece)

    def add_calls(self, deltas: Iterable[Json]) -> None:
        """Keep pieces of calls of tools, in OpenAI's form."""
        for delta in deltas:
            self._take_room(self.calls.add(delta))

    def end(self) -> None:
        """Nothing more comes. Hand over what was waiting for its other half."""
        if self._half:
            self._half = ""
            self.add_text("\ufffd")

    def as_answer(self) -> Json:
        """Choices as in a plain answer, but for the text."""
        message = {"role": "assistant", "content": "", "tool_calls": self.calls.to_json()}
        choices = [{"index": 0, "message": message, "finish_reason": self.finish_reason}]
        return cast(Json, {"choices": choices})

    def _mended(self, piece: str) -> str:
        """The piece without halves of characters: some servers cut JSON's escapes of one (\\ud83d\\ude00) in two."""
        whole = self._half + piece
        self._half = whole[-1] if "\ud800" <= whole[-1:] <= "\udbff" else ""
        whole = whole[: len(whole) - len(self._half)]
        try:
            whole.encode()
        except UnicodeEncodeError:
            return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole

    def _take_room(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise RequestRefused(f"the provider's answer is larger than {MAX_CHARACTERS >> 20} MB", self.model)


@dataclass
class _Call:
    id: object = None
    type: object = None
    name: object = None
    arguments: list[str] = field(default_factory=list[str])

    def to_json(self) -> Json:
        function = {"name": self.name or "", "arguments": "".join(self.arguments)}
        return cast(Json, {"id": self.id, "type": self.type or "function", "function": function})


class Calls:
    """Calls of tools out of their pieces, each of which says by an index whose it is."""

    def __init__(self) -> None:
        """None yet."""
        self._all: list[_Call] = []
        self._open: dict[object, _Call] = {}

    def add(self, delta: Json) -> int:
        """Keep a piece. Returns how long it is."""
        said = delta.get("function")
        function = cast(Json, said) if isinstance(said, dict) else {}
        call = self._call_of(delta.get("index"), delta.get("id"), function.get("name"))
        call.id = call.id or delta.get("id")
        call.type = call.type or delta.get("type")
        call.name = call.name or function.get("name")
        arguments = function.get("arguments")
        call.arguments.append(arguments if isinstance(arguments, str) else "")
        return len(call.arguments[-1]) + 1

    def to_json(self) -> list[Json]:
        """The calls in OpenAI's form, in the order in which they began."""
        return [call.to_json() for call in self._all]

    def _call_of(self, index: object, known_as: object, name: object) -> _Call:
        """The call that goes on. A name begins one where there is no index, or where it comes with another id."""
        call = self._open.get(index)
        begins = bool(name) and (index is None or bool(known_as and call and call.id and call.id != known_as))
        if call is None or begins:
            call = _Call()
            self._all.append(call)
            self._open[index] = self._open[None] = call
        return call
