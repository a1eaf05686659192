"""What a conversation is made of, and how much of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from pydantic import ConfigDict

from kagura_tasks.errors import InvalidRequest, PromptTooLarge
from kagura_tasks.schemas import Message, Wire, is_unicode
from kagura_tasks.tokens import estimated_tokens

Role = Literal["user", "assistant", "system"]

_ROLES: Final = ("user", "assistant", "system")

#: Longest id of a turn.
_MAX_ID_CHARACTERS: Final = 512

#: What a turn costs a model beside its text.
_TURN_TOKENS: Final = 4


class Turn(Wire):
    """One turn of a conversation.

    Attributes:
        number: Counted from 1 in the order in which turns were appended; of what fell out, it is not used again.
        role: Who spoke: "user", "assistant" or "system".
        content: The text.
        at_ms: When it was appended, Unix milliseconds of the clock where the conversation is kept.
    """

    # A newer version may keep more of a turn, while an older one still reads.
    model_config = ConfigDict(extra="ignore")

    number: int
    role: Role
    content: str
    at_ms: int

    def to_message(self) -> Message:
        """The turn as a chat turn of a request."""
        return Message(role=self.role, content=self.content)


@dataclass(frozen=True)
class NewTurn:
    """A turn that is to be appended, once: of two with one id, the second is not."""

    role: Role
    content: str
    turn_id: str = ""

    @property
    def tokens(self) -> int:
        """How many tokens it takes, by estimate."""
        return turn_tokens(self.content)

    def check(self, limit_bytes: int) -> None:
        """Raise InvalidRequest where it cannot be a turn, or PromptTooLarge."""
        if self.role not in _ROLES:
            raise InvalidRequest(f"a turn's role is one of {', '.join(_ROLES)}")
        if not isinstance(self.content, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"a turn's content is a text, not of type {type(self.content).__name__}")
        if len(self.turn_id) > _MAX_ID_CHARACTERS:
            raise InvalidRequest(f"a turn's id has at most {_MAX_ID_CHARACTERS} characters")
        if not (is_unicode(self.content) and is_unicode(self.turn_id)):
            raise InvalidRequest("a turn's content or id holds half a character (a lone surrogate)")
        if (size_bytes := len(self.content.encode())) > limit_bytes:
            raise PromptTooLarge(size_bytes, limit_bytes)


class History(NamedTuple):
    """What is kept of a conversation: the summary of what fell out ("" where there is none), and the turns."""

    summary: str
    turns: list[Turn]


class Appended(NamedTuple):
    """What appending came to: the turns' numbers, and how many turns wait to be summed up."""

    numbers: list[int]
    waiting: int


class Claim(NamedTuple):
    """Turns that fell out, which whoever holds the claim sums up, and the summary of those before."""

    token: str
    summary: str
    turns: Sequence[Turn]


def turn_tokens(text: str) -> int:
    """How many tokens a turn with this text takes, or nearly so."""
    return estimated_tokens(text) + _TURN_TOKENS
