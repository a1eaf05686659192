"""What a conversation is called in Redis."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.schemas import is_unicode

#: Ids that are a part of a key as they are. All others are there as a hash, which no plain one looks like.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: Longest id: a name, not a text.
_MAX_CHARACTERS: Final = 512


@dataclass(frozen=True)
class ConversationName:
    """A conversation's name: its tenant, and the id that its caller gave it. Another tenant's is another one."""

    tenant: str
    conversation_id: str

    def __post_init__(self) -> None:
        """Raises InvalidRequest where the id cannot be one."""
        given = self.conversation_id
        if not isinstance(given, str) or not 1 <= len(given) <= _MAX_CHARACTERS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"a conversation's id is a text of 1 to {_MAX_CHARACTERS} characters")
        if not is_unicode(given):
            raise InvalidRequest("a conversation's id holds half a character (a lone surrogate)")

    @property
    def key(self) -> str:
        """The hash of what is known of it: `number` (of its last turn), `tokens` (of its turns), `fallen_tokens`,
        `summary`, `claim` and `claimed_until_ms`.

        Behind it, after a colon, are: `turns` (list), `fallen` (list: what is to be summed up), `ids` (sorted set: the
        ids of its latest turns, by their numbers).
        """
        given = self.conversation_id
        if _PLAIN.fullmatch(given):
            return f"kagura:conversation:{self.tenant}:{given}"
        digest = hashlib.sha256(given.encode()).hexdigest()
        return f"kagura:conversation:{self.tenant}:~{digest}"
