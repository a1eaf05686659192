"""One stream, from its writer's side: pieces of text go in, numbered events come out. Knows no Redis."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.schemas import Completion, Usage
from kagura_tasks.streaming.events import (
    BaseEvent,
    Cancelled,
    Chunk,
    Done,
    Failed,
    Heartbeat,
    fields_of_completion,
    fields_of_error,
)
from kagura_tasks.streaming.log import StreamName

#: Longest text of one event, in characters.
LONGEST_TEXT: Final = 8192

#: Events that are sent in one step.
_MOST_AT_ONCE: Final = 64


class StreamTaken(Exception):
    """Another attempt at this task has begun elsewhere: nobody wants this one's text."""


class Reply(Enum):
    """What became of a step."""

    OK = "ok"
    TAKEN = "taken"
    ENDED = "ended"


class Claim(NamedTuple):
    """The step in which an attempt begins: the attempt's own name, and the least number that it can have.

    `after` is the number of the writer's last event, for a server that lost its memory.
    """

    name: str
    least_attempt: int
    after: int


class Events(NamedTuple):
    """The step in which events are appended: encoded, numbered from `first` on."""

    attempt: int
    first: int
    payloads: list[bytes]
    is_end: bool


Step = Claim | Events


class Outlet(Protocol):
    """Where the steps of a writer go, in order, one at a time."""

    def wake(self, writer: StreamWriter, *, urgent: bool) -> None:
        """The writer has something to send: at once, or together with what comes in the next moment."""
        ...

    def close(self, writer: StreamWriter) -> None:
        """The writer will send nothing more."""
        ...


class StreamWriter:
    """Writes a task's stream. What it is told is sent in the background, for as long as that takes.

    Attributes:
        name: Whose stream it is.
        mark: The key of the mark that this task was given to another worker.
        last_at: When something was last given to be sent (time.monotonic, s).
    """

    def __init__(self, name: StreamName, outlet: Outlet, mark: str, least_attempt: int, urgent_bytes: int) -> None:
        """Take where the steps go, the least number of the first attempt, and how much text is sent without waiting."""
        self.name = name
        self.mark = mark
        self.last_at = time.monotonic()
        self._outlet = outlet
        self._urgent_bytes = urgent_bytes
        self._least_attempt = least_attempt
        self._attempt = self._seq = 0
        self._reply = Reply.OK
        self._step: Step | None = None
        self._draft = _Draft()
        self._sent: asyncio.Future[None] | None = None
        self._wake(urgent=True)

    # What the task's side calls.

    @property
    def text(self) -> str:
        """The text of this attempt so far."""
        return self._draft.text()

    def write(self, text: str) -> None:
        """Append text. Raises StreamTaken where another attempt has begun elsewhere."""
        if self._reply is Reply.TAKEN:
            raise StreamTaken
        if text:
            self._draft.add(text)
            self.last_at = time.monotonic()
            self._wake(urgent=self._draft.is_urgent(self._urgent_bytes))

    def restart(self) -> None:
        """A further attempt begins: what was written is void."""
        self._draft = _Draft()
        self._wake(urgent=True)

    def fill_up(self, text: str) -> None:
        """Make this the attempt's text: append what is missing, or begin anew where another text was written."""
        if not text.startswith(self.text):
            self.restart()
        self.write(text[len(self.text) :])

    def beat(self) -> None:
        """Say that the worker lives."""
        self.last_at = time.monotonic()
        self._draft.beats = True
        self._wake(urgent=True)

    async def done(self, completion: Completion) -> None:
        """End with this answer, whose text was written. Returns when that is sent, or refused."""
        await self._end(Done, **fields_of_completion(completion))

    async def failed(self, error: KaguraTasksError) -> None:
        """End without an answer."""
        await self._end(Failed, **fields_of_error(error))

    async def cancelled(self, usage: Usage) -> None:
        """End because the task was cancelled."""
        await self._end(Cancelled, usage=usage)

    def leave(self) -> None:
        """Write no more, and leave the stream open: another attempt will follow, perhaps elsewhere."""
        self._outlet.close(self)

    # What the outlet calls.

    def step(self) -> Step | None:
        """What is to be sent next; the same again until it is settled. None: nothing."""
        if self._step is None and self._reply is Reply.OK:
            self._step = self._next_step()
        return self._step

    def settle(self, reply: Reply, attempt: int = 0, seq: int = 0) -> None:
        """The step was sent; where it was a claim, with the attempt's number, and that of the event that says so."""
        step, self._step, self._reply = self._step, None, reply
        if isinstance(step, Claim) and reply is Reply.OK:
            self._attempt, self._seq = attempt, seq
            self._draft.is_claimed = step.name == self._draft.name
        elif isinstance(step, Events):
            self._seq = step.first + len(step.payloads) - 1
        is_over = reply is not Reply.OK or (isinstance(step, Events) and step.is_end)
        if is_over and self._sent is not None and not self._sent.done():
            self._sent.set_result(None)
        if self._draft.has_more:
            self._wake(urgent=self._draft.is_urgent(self._urgent_bytes))

    async def _end(self, kind: type[BaseEvent], **fields: Any) -> None:
        if self._reply is Reply.OK:
            self._sent = asyncio.get_running_loop().create_future()
            self._draft.ending = kind, fields
            self._wake(urgent=True)
            await self._sent
        self._outlet.close(self)

    def _wake(self, *, urgent: bool) -> None:
        if self._reply is Reply.OK:
            self._outlet.wake(self, urgent=urgent)

    def _next_step(self) -> Step | None:
        draft = self._draft
        if not draft.is_claimed:
            return Claim(draft.name, max(self._least_attempt, self._attempt + 1), self._seq)
        payloads = [self._encoded(number, Chunk, text=text) for number, text in enumerate(draft.take())]
        if draft.beats and not payloads:
            payloads.append(self._encoded(0, Heartbeat))
        draft.beats = False
        ending = None if draft.unsent else draft.ending
        if ending is not None:
            kind, fields = ending
            payloads.append(self._encoded(len(payloads), kind, **fields))
            draft.ending = None
        return Events(self._attempt, self._seq + 1, payloads, ending is not None) if payloads else None

    def _encoded(self, offset: int, kind: type[BaseEvent], **fields: Any) -> bytes:
        now_ms = int(time.time() * 1000)
        event = kind(seq=self._seq + 1 + offset, attempt=self._attempt, at_ms=now_ms, **fields)
        return event.model_dump_json().encode()


class _Draft:
    """What one attempt has to say, and how much of it is not sent yet."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.is_claimed = False
        self.has_spoken = False
        self.texts: list[str] = []
        self.unsent: list[str] = []
        self.unsent_bytes = 0
        self.beats = False
        self.ending: tuple[type[BaseEvent], dict[str, Any]] | None = None

    @property
    def has_more(self) -> bool:
        return not self.is_claimed or bool(self.unsent or self.beats or self.ending)

    def is_urgent(self, urgent_bytes: int) -> bool:
        """Not to be collected with what comes next: the first text, much text, and all that is no text."""
        is_first = bool(self.unsent) and not self.has_spoken
        return not self.is_claimed or self.beats or bool(self.ending) or is_first or self.unsent_bytes >= urgent_bytes

    def text(self) -> str:
        self.texts = ["".join(self.texts)] if self.texts else []
        return self.texts[0] if self.texts else ""

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.unsent.append(text)
        self.unsent_bytes += len(text.encode())

    def take(self) -> list[str]:
        """The unsent text, in pieces that fit one event each; no more of them than fit one step."""
        text = "".join(self.unsent)
        self.has_spoken = self.has_spoken or bool(text)
        most = LONGEST_TEXT * _MOST_AT_ONCE
        text, rest = text[:most], text[most:]
        self.unsent = [rest] if rest else []
        self.unsent_bytes = len(rest.encode())
        return [text[start : start + LONGEST_TEXT] for start in range(0, len(text), LONGEST_TEXT)]
