"""What a stream says. Every event has a number, and none is left out."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from kagura_tasks.errors import KaguraTasksError, TransientError, rebuild
from kagura_tasks.schemas import Completion, Json, Usage, Wire


class BaseEvent(Wire):
    """What all events have. Fields of later versions are passed over.

    Attributes:
        seq: The event's number, from 1. `resume(after=seq)` goes on behind it.
        attempt: The try that it belongs to, from 1.
        at_ms: When it was written (Unix ms).
    """

    model_config = ConfigDict(extra="ignore")

    seq: int = Field(ge=0)
    attempt: int = Field(ge=0)
    at_ms: int = Field(ge=0)


class Start(BaseEvent):
    """A worker has begun."""

    kind: Literal["start"] = "start"


class Chunk(BaseEvent):
    """A piece of the text."""

    kind: Literal["chunk"] = "chunk"
    text: str


class Heartbeat(BaseEvent):
    """Nothing new: the worker lives, and the model is silent."""

    kind: Literal["heartbeat"] = "heartbeat"


class Reset(BaseEvent):
    """A further try has begun: what came before it is void."""

    kind: Literal["reset"] = "reset"


class Gap(BaseEvent):
    """The events from `first` to `seq` are not in the log any more: text may be missing. Only readers say so."""

    kind: Literal["gap"] = "gap"
    first: int = Field(ge=1)


class Done(BaseEvent):
    """The answer is whole. Its fields are the completion's, but for the text, which the chunks were."""

    kind: Literal["done"] = "done"
    model: str
    finish_reason: str
    usage: Usage = Usage()
    cached: bool = False
    attempts: int = Field(default=1, ge=0)
    tool_calls: tuple[Json, ...] = ()

    def completion(self, text: str) -> Completion:
        """The completion, with this text."""
        fields = {name: getattr(self, name) for name in _COMPLETION_FIELDS}
        return Completion(text=text, **fields)


class Failed(BaseEvent):
    """There will be no answer. `type` and `args` are an error of kagura_tasks.errors, `message` says it to people."""

    kind: Literal["error"] = "error"
    type: str
    message: str
    retryable: bool
    args: tuple[JsonValue, ...] = ()

    def error(self) -> KaguraTasksError:
        """The error, as the worker raised it."""
        return rebuild(self.type, list(self.args))


class Cancelled(BaseEvent):
    """The task was cancelled. `usage` is what its last call had used by then, as counted here."""

    kind: Literal["cancelled"] = "cancelled"
    usage: Usage = Usage()


class Lost(BaseEvent):
    """The worker fell silent, and none is there to begin anew. Only readers say so: each sees it for itself."""

    kind: Literal["lost"] = "lost"


Event = Start | Chunk | Heartbeat | Reset | Gap | Done | Failed | Cancelled | Lost

#: The last event of a stream is one of these.
Ending = Done | Failed | Cancelled | Lost

_COMPLETION_FIELDS: Final = ("model", "finish_reason", "usage", "cached", "attempts", "tool_calls")
_EVENTS: Final[TypeAdapter[Event]] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class TextSoFar:
    """The text of the latest attempt, as events tell it.

    Attributes:
        is_whole: All of the attempt was read so far.
    """

    def __init__(self, after: int = 0) -> None:
        """Take the number of the event behind which reading begins."""
        self.is_whole = after == 0
        self._pieces: list[str] = []

    def note(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Chunk):
            self._pieces.append(event.text)
        elif isinstance(event, Start | Reset):
            self._pieces, self.is_whole = [], True
        elif isinstance(event, Gap):
            self.is_whole = False

    @property
    def text(self) -> str:
        """The text, as far as it was read."""
        return "".join(self._pieces)


def parse(payload: bytes) -> Event | None:
    """The event in these bytes; None where there is none of ours in them."""
    try:
        return _EVENTS.validate_json(payload)
    except (ValidationError, RecursionError):
        return None


def fields_of_completion(completion: Completion) -> dict[str, Any]:
    """What a Done says of a completion."""
    return {name: getattr(completion, name) for name in _COMPLETION_FIELDS}


def fields_of_error(error: KaguraTasksError) -> dict[str, Any]:
    """What a Failed says of an error."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "retryable": isinstance(error, TransientError),
        "args": tuple(error.args),
    }
