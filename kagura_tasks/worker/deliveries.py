"""What the broker's Redis knows of deliveries, changed one atomic step at a time.

A *lease* names a message that a worker holds: its delivery tag and the list it came from. It ends unless it is renewed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast
from uuid import uuid4

from kagura_tasks import delivery_keys
from kagura_tasks.dead_letters import ATTEMPT_HEADER, DEAD_TTL_S, DEATHS_HEADER
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import Argument, SyncRedis

Message = dict[str, Any]

_HERE: Final = __package__ or ""
_BURY: Final = LuaScript.load("kagura_tasks", "bury.lua").text


def _script(name: str, *, buries: bool = False) -> LuaScript:
    own = LuaScript.load(_HERE, name)
    return LuaScript(f"{_BURY}\n{own.text}") if buries else own


FETCH: Final = _script("fetch.lua", buries=True)
_RENEW: Final = _script("renew_leases.lua")
_ADOPT: Final = _script("adopt.lua")
_EXPIRED: Final = _script("expired_leases.lua")
_RESTORE: Final = _script("restore.lua", buries=True)
_BURY_HELD: Final = _script("bury_held.lua", buries=True)

#: Leases in one call of a script: no other client of the server waits longer than about a millisecond for it.
_MOST_AT_ONCE: Final = 250

#: Leases that end at once are taken over in steps of so many.
_MOST_CLAIMED: Final = 100


class Lease(NamedTuple):
    """A message that a worker holds."""

    tag: str
    list_key: str

    def __str__(self) -> str:
        """As it is written in Redis. A tag has no blanks."""
        return f"{self.tag} {self.list_key}"

    @classmethod
    def parse(cls, written: str) -> Lease:
        """The lease that is written like this."""
        tag, _, list_key = written.partition(" ")
        return cls(tag, list_key)


class Claimed(NamedTuple):
    """A message whose worker let its lease end."""

    lease: Lease
    message: Message


class Missing(NamedTuple):
    """A lease that the server does not have any more."""

    lease: Lease
    taken: bool


@dataclass(frozen=True)
class Deliveries:
    """The deliveries of one broker. Every method raises redis-py's errors where it is away.

    Attributes:
        client: A client that adds no prefix to keys.
        lease_ms: How long a lease lasts.
        prefix: What the transport puts before every key.
        unacked: kombu's record of the messages.
        unacked_index: kombu's index of it, which stock workers go by.
    """

    client: SyncRedis
    lease_ms: int
    prefix: str = ""
    unacked: str = "unacked"
    unacked_index: str = "unacked_index"

    def fetch_command(
        self, room: int, lists: Sequence[str], recorded: Sequence[bool], settled: Iterable[Lease]
    ) -> tuple[list[str], list[Argument]]:
        """The keys and arguments of FETCH, for whoever sends it without waiting."""
        keys = [*self._records, self._leases, self._key(delivery_keys.DEAD), self._counts, *lists]
        flags = "".join("1" if one else "0" for one in recorded)
        return keys, [room, self.lease_ms, DEAD_TTL_S, flags, *map(str, settled)]

    def settle(self, leases: Sequence[Lease]) -> None:
        """Forget messages that are done."""
        for some in _portions(leases):
            FETCH.run(self.client, *self.fetch_command(0, [], [], some))

    def renew(self, leases: Sequence[Lease]) -> list[Missing]:
        """Keep the messages for another term; those that could not be kept."""
        missing: list[Missing] = []
        keys = [self._key(self.unacked_index), self._leases, self._key(delivery_keys.TAKEN)]
        for some in _portions(leases):
            found = cast("list[Any]", _RENEW.run(self.client, keys, [self.lease_ms, *map(str, some)]))
            missing += [Missing(Lease.parse(lease.decode()), bool(taken)) for lease, taken in _pairs(found)]
        return missing

    def adopt(self, lease: Lease, message: Message) -> None:
        """Record a message that this worker holds, on a server that forgot it."""
        keys = [*self._records, self._leases, self._taken(lease)]
        _ADOPT.run(self.client, keys, [str(lease), _record_of(message), self.lease_ms])

    def expired(self, gap_ms: int, grace_ms: int) -> list[Claimed]:
        """Claim messages whose worker did not renew them in time.

        Args:
            gap_ms: Where nobody could look for longer than this, living workers are given time to renew.
            grace_ms: So much time.
        """
        keys = [self._key(self.unacked), self._leases, self._key(delivery_keys.SWEEP)]
        args: list[Argument] = [self.lease_ms, _MOST_CLAIMED, gap_ms, grace_ms]
        found = cast("list[bytes]", _EXPIRED.run(self.client, keys, args))
        return [Claimed(Lease.parse(lease.decode()), _message_in(record)) for lease, record in _pairs(found)]

    def messages(self, leases: Sequence[Lease]) -> list[Claimed]:
        """The recorded messages of these leases; what is not recorded any more is left out."""
        found: list[Claimed] = []
        for some in _portions(leases):
            records = self.client.hmget(self._key(self.unacked), [lease.tag for lease in some])
            found += [
                Claimed(lease, _message_in(record))
                for lease, record in zip(some, records, strict=True)
                if record is not None
            ]
        return found

    def restore(self, claimed: Claimed, *, died: bool, front: bool = True) -> bool:
        """Put the message back into its list, as a further attempt; whether it was still there.

        Args:
            claimed: The message.
            died: Its worker died while it held it.
            front: It is the next to be taken, as it was before.
        """
        keys = [*self._records, self._leases, self._taken(claimed.lease), self._counts, claimed.lease.list_key]
        args: list[Argument] = [
            str(claimed.lease),
            json.dumps(further_attempt(claimed.message, died=died)),
            "front" if front else "back",
            delivery_keys.TAKEN_TTL_S,
            "redelivered" if died else "handed_back",
        ]
        return bool(_RESTORE.run(self.client, keys, args))

    def bury(self, claimed: Claimed, reason: str, deaths: int = 0) -> bool:
        """Put the message among the dead letters; whether it was still there."""
        headers = headers_of(claimed.message)
        fields: dict[str, Argument] = {
            "message": json.dumps(claimed.message),
            "queue": claimed.lease.list_key,
            "reason": reason,
            "task": str(headers.get("task", "")),
            "task_id": str(headers.get("id", "")),
            "deaths": deaths,
        }
        keys = [
            *self._records,
            self._leases,
            self._taken(claimed.lease),
            self._counts,
            self._key(delivery_keys.DEAD),
        ]
        args: list[Argument] = [str(claimed.lease), delivery_keys.TAKEN_TTL_S, uuid4().hex, DEAD_TTL_S]
        return bool(_BURY_HELD.run(self.client, keys, [*args, *(part for pair in fields.items() for part in pair)]))

    def count(self, what: str, number: int = 1) -> None:
        """So many more of what did not go the usual way."""
        self.client.hincrby(self._counts, what, number)
        self.client.expire(self._counts, delivery_keys.COUNTS_TTL_S)

    @property
    def _records(self) -> list[str]:
        return [self._key(self.unacked), self._key(self.unacked_index)]

    @property
    def _leases(self) -> str:
        return self._key(delivery_keys.LEASES)

    @property
    def _counts(self) -> str:
        return self._key(delivery_keys.COUNTS)

    def _taken(self, lease: Lease) -> str:
        return self._key(delivery_keys.taken_key(lease.tag))

    def _key(self, name: str) -> str:
        return self.prefix + name


def headers_of(message: Message) -> Message:
    """The message's headers; empty where it has none."""
    headers = message.get("headers")
    return cast(Message, headers) if isinstance(headers, dict) else {}


def deaths_of(message: Message) -> int:
    """How many workers died while they held it."""
    deaths = headers_of(message).get(DEATHS_HEADER, 0)
    return deaths if isinstance(deaths, int) else 0


def further_attempt(message: Message, *, died: bool) -> Message:
    """The message as it is handed out once more: under another tag, so that its last holder can settle it no more."""
    headers = dict(headers_of(message))
    attempt = headers.get(ATTEMPT_HEADER, 1)
    headers |= {"redelivered": True, ATTEMPT_HEADER: (attempt if isinstance(attempt, int) else 1) + 1}
    if died:
        headers[DEATHS_HEADER] = deaths_of(message) + 1
    properties = {**cast(Message, message["properties"]), "delivery_tag": str(uuid4())}
    properties["delivery_info"] = {**cast(Message, properties["delivery_info"]), "redelivered": True}
    return {**message, "headers": headers, "properties": properties}


def _record_of(message: Message) -> str:
    info = message["properties"]["delivery_info"]
    return json.dumps([message, info.get("exchange") or "", info.get("routing_key") or ""])


def _message_in(record: bytes) -> Message:
    return cast(Message, json.loads(record)[0])


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    """A list of pairs, out of one in which they stand in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def _portions(leases: Sequence[Lease]) -> list[Sequence[Lease]]:
    return [leases[start : start + _MOST_AT_ONCE] for start in range(0, len(leases), _MOST_AT_ONCE)]
