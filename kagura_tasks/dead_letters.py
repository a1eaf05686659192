"""Messages that no worker will try again: what killed its worker too often, and what nobody could read.

They stay until somebody looks: each can be sent again, or dropped. They are kept for 30 days, 10,000 at most.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import uuid4

from kagura_tasks.connections import redis_errors, sync_client
from kagura_tasks.delivery_keys import DEAD
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import SyncRedis
from kagura_tasks.settings import Settings
from kagura_tasks.task_store import record_key

#: Seconds for which a dead letter is kept.
DEAD_TTL_S: Final = 30 * 86_400

#: Headers of a message: how often it was handed out, and how many workers died while they held it.
ATTEMPT_HEADER: Final = "kagura_attempt"
DEATHS_HEADER: Final = "kagura_deaths"

_REVIVE: Final = LuaScript.load(__package__ or "", "revive.lua")


@dataclass(frozen=True)
class DeadLetter:
    """A message that no worker will try again.

    Attributes:
        id: Its name here.
        reason: Why it is here, in a few words.
        queue: The Redis list it came from.
        task: The name of its Celery task; "" where it has none.
        task_id: The id of its Celery task; "" where it has none.
        deaths: How many workers died while they held it.
        buried_at: When it came here (Unix s).
        message: The message itself. It may hold a prompt: show it only to somebody who asks for it.
    """

    id: str
    reason: str
    queue: str
    task: str
    task_id: str
    deaths: int
    buried_at: float
    message: bytes


class DeadLetters:
    """The dead letters of a broker. Every method raises RedisUnreachable where it is away."""

    def __init__(self, settings: Settings) -> None:
        """Take where the broker and the results are. Connects to nothing yet."""
        self._settings = settings

    def latest(self, limit: int = 100) -> list[DeadLetter]:
        """The latest ones, newest first."""
        with redis_errors(self._settings.broker):
            ids = self._client.zrange(DEAD, -limit, -1)
            found = [self._read(key.decode()) for key in reversed(ids)]
        return [letter for letter in found if letter is not None]

    def count(self) -> int:
        """How many there are."""
        with redis_errors(self._settings.broker):
            return self._client.zcard(DEAD)

    def find(self, letter_id: str) -> DeadLetter | None:
        """The one with this id, or None."""
        with redis_errors(self._settings.broker):
            return self._read(letter_id)

    def retry(self, letter: DeadLetter) -> bool:
        """Send it again, as a new message with no death to its name; whether it was still there.

        The task's recorded failure is forgotten first: a worker would return it instead of trying again.
        """
        if letter.task_id:
            with redis_errors(self._settings.results):
                results = sync_client(self._settings.results, self._settings.redis_timeout_s)
                results.delete(record_key(letter.task_id))
        keys = [DEAD, _entry_key(letter.id), letter.queue]
        with redis_errors(self._settings.broker):
            return bool(_REVIVE.run(self._client, keys, [letter.id, _as_new(letter.message)]))

    def drop(self, letter: DeadLetter) -> bool:
        """Forget it for good; whether it was still there."""
        with redis_errors(self._settings.broker):
            self._client.zrem(DEAD, letter.id)
            return bool(self._client.delete(_entry_key(letter.id)))

    @property
    def _client(self) -> SyncRedis:
        return sync_client(self._settings.broker, self._settings.redis_timeout_s)

    def _read(self, letter_id: str) -> DeadLetter | None:
        fields = self._client.hgetall(_entry_key(letter_id))
        if not fields:
            return None

        def text(name: str) -> str:
            return fields.get(name.encode(), b"").decode("utf-8", "replace")

        return DeadLetter(
            id=letter_id,
            reason=text("reason"),
            queue=text("queue"),
            task=text("task"),
            task_id=text("task_id"),
            deaths=int(text("deaths") or 0),
            buried_at=int(text("at_ms") or 0) / 1000,
            message=fields.get(b"message", b""),
        )


def _entry_key(letter_id: str) -> str:
    return f"{DEAD}:{letter_id}"


def _as_new(message: bytes) -> bytes:
    """The message under a new delivery tag, with its past forgotten. What is no message stays as it is."""
    try:
        document = cast("dict[str, Any]", json.loads(message))
        document["properties"]["delivery_tag"] = str(uuid4())
        for header in (ATTEMPT_HEADER, DEATHS_HEADER):
            document["headers"].pop(header, None)
    except (ValueError, TypeError, KeyError, AttributeError):
        return message
    return json.dumps(document).encode()
