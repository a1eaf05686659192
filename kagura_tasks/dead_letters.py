"""Messages that no worker will try again: what killed its worker too often, and what nobody could read.

They stay until somebody looks: each can be sent again, or dropped. They are kept for 30 days, 10,000 at most.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
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
_FORGET_FAILURE: Final = LuaScript.load(__package__ or "", "forget_failure.lua")

_FIELDS: Final = ["reason", "queue", "task", "task_id", "deaths", "at_ms"]

#: Entries that are read in one round trip.
_PORTION: Final = 500


@dataclass(frozen=True)
class DeadLetter:
    """What is known of a message that no worker will try again. The message itself is read only on demand.

    Attributes:
        id: Its name here.
        reason: Why it is here, in a few words.
        queue: The Redis list it came from.
        task: The name of its Celery task; "" where it has none.
        task_id: The id of its Celery task; "" where it has none.
        deaths: How many workers died while they held it.
        buried_at: When it came here (Unix s).
        size_bytes: How large the message is.
    """

    id: str
    reason: str
    queue: str
    task: str
    task_id: str
    deaths: int
    buried_at: float
    size_bytes: int


class DeadLetters:
    """The dead letters of a broker. Every method raises RedisUnreachable where it is away."""

    def __init__(self, settings: Settings) -> None:
        """Take where the broker and the results are. Connects to nothing yet."""
        self._settings = settings

    def ids(self) -> list[str]:
        """All there are, newest first."""
        with redis_errors(self._settings.broker):
            found = self._client.zrevrangebyscore(DEAD, "+inf", _oldest_ms())
        return [one.decode("utf-8", "replace") for one in found]

    def count(self) -> int:
        """How many there are."""
        with redis_errors(self._settings.broker):
            return self._client.zcount(DEAD, _oldest_ms(), "+inf")

    def find(self, ids: list[str]) -> list[DeadLetter]:
        """Those with these ids, in this order; what is gone is left out."""
        with redis_errors(self._settings.broker):
            return [letter for start in range(0, len(ids), _PORTION) for letter in self._read(ids[start:][:_PORTION])]

    def message(self, letter_id: str) -> bytes | None:
        """The message as it was, or None. It may hold a prompt: show it only to somebody who asks for it."""
        with redis_errors(self._settings.broker):
            return self._client.hget(_entry_key(letter_id), "message")

    def retry(self, letter: DeadLetter) -> bool:
        """Send it again, as a message with no attempt and no death to its name; whether it was still there.

        The task's recorded failure is forgotten first: a worker would return it instead of trying again. Whoever is
        killed in between leaves a letter that can be sent again.
        """
        message = self.message(letter.id)
        if message is None:
            self.drop(letter)
            return False
        if letter.task_id:
            with redis_errors(self._settings.results):
                results = sync_client(self._settings.results, self._settings.redis_timeout_s)
                _FORGET_FAILURE.run(results, [record_key(letter.task_id)], [])
        keys = [DEAD, _entry_key(letter.id), letter.queue]
        with redis_errors(self._settings.broker):
            return bool(_REVIVE.run(self._client, keys, [letter.id, _as_new(message)]))

    def drop(self, letter: DeadLetter) -> bool:
        """Forget it for good; whether it was still there."""
        with redis_errors(self._settings.broker), self._client.pipeline(transaction=True) as pipe:
            pipe.delete(_entry_key(letter.id))
            pipe.zrem(DEAD, letter.id)
            return bool(pipe.execute()[0])

    @property
    def _client(self) -> SyncRedis:
        return sync_client(self._settings.broker, self._settings.redis_timeout_s)

    def _read(self, ids: list[str]) -> Iterator[DeadLetter]:
        with self._client.pipeline(transaction=False) as pipe:
            for letter_id in ids:
                pipe.hmget(_entry_key(letter_id), _FIELDS)
                pipe.hstrlen(_entry_key(letter_id), "message")
            answers = pipe.execute()
        for letter_id, values, size in zip(ids, answers[::2], answers[1::2], strict=True):
            fields = dict(zip(_FIELDS, cast("list[bytes | None]", values), strict=True))
            if fields["at_ms"] is not None:
                yield _letter(letter_id, fields, cast(int, size))


def message_in(raw: bytes) -> dict[str, Any] | None:
    """The message in these bytes, in kombu's form; None for what is no message."""
    try:
        message = cast(object, json.loads(raw))
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    parts = cast("dict[str, Any]", message)
    are_there = isinstance(parts.get("properties"), dict) and isinstance(parts.setdefault("headers", {}), dict)
    return parts if are_there else None


def _letter(letter_id: str, fields: dict[str, bytes | None], size_bytes: int) -> DeadLetter:
    texts = {name: (value or b"").decode("utf-8", "replace") for name, value in fields.items()}
    return DeadLetter(
        id=letter_id,
        reason=texts["reason"],
        queue=texts["queue"],
        task=texts["task"],
        task_id=texts["task_id"],
        deaths=int(texts["deaths"] or 0),
        buried_at=int(texts["at_ms"]) / 1000,
        size_bytes=size_bytes,
    )


def _entry_key(letter_id: str) -> str:
    return f"{DEAD}:{letter_id}"


def _oldest_ms() -> int:
    """Entries that were buried before are gone, though the index may still name them."""
    return int((time.time() - DEAD_TTL_S) * 1000)


def _as_new(raw: bytes) -> bytes:
    """The message under a new delivery tag, with its past forgotten. What is no message stays as it is."""
    message = message_in(raw)
    if message is None:
        return raw
    message["properties"]["delivery_tag"] = str(uuid4())
    for header in (ATTEMPT_HEADER, DEATHS_HEADER):
        message["headers"].pop(header, None)
    return json.dumps(message).encode()
