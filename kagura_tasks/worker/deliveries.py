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
from kagura_tasks.quick_json import decoded
from kagura_tasks.redis_types import Argument, SyncRedis

Message = dict[str, Any]

_HERE: Final = __package__ or ""
_BURY: Final = LuaScript.load("kagura_tasks", "bury.lua").text


def script(name: str, *, buries: bool = False) -> LuaScript:
    """The script in this folder's file; `buries`: with the functions of `bury.lua` in front."""
    own = LuaScript.load(_HERE, name)
    return LuaScript(f"{_BURY}\n{own.text}") if buries else own


FETCH: Final = script("fetch.lua", buries=True)
_RENEW: Final = script("renew_leases.lua")
_ADOPT: Final = script("adopt.lua")
_EXPIRED: Final = script("expired_leases.lua")
_RESTORE: Final = script("restore.lua", buries=True)
_BURY_HELD: Final = script("bury_held.lua", buries=True)

#: Header of a message that its worker fetched, and did not start yet.
_WAITS_HEADER: Final = "kagura_waits"

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

    def adopt(self, lease: Lease, message: Message) -> bool:
        """Record a message that this worker holds as it is now; whether it is still this worker's."""
        keys = [*self._records, self._leases, self._taken(lease)]
        return bool(_ADOPT.run(self.client, keys, [str(lease), _record_of(message), self.lease_ms]))

    def expired(self, gap_ms: int, grace_ms: int) -> list[Claimed]:
        """Claim messages whose worker did not renew them in time.

        Args:
            gap_ms: Where nobody could look for longer than this, living workers are given time to renew.
            grace_ms: So much time.
        """
        keys = [self._key(self.unacked), self._leases, self._key(delivery_keys.SWEEP)]
        args: list[Argument] = [self.lease_ms, _MOST_CLAIMED, gap_ms, grace_ms]
        found = cast("list[bytes]", _EXPIRED.run(self.client, keys, args))
        return self._readable((Lease.parse(lease.decode()), record) for lease, record in _pairs(found))

    def messages(self, leases: Sequence[Lease]) -> list[Claimed]:
        """The recorded messages of these leases; what is not recorded any more is left out."""
        found: list[Claimed] = []
        for some in _portions(leases):
            records = self.client.hmget(self._key(self.unacked), [lease.tag for lease in some])
            pairs = zip(some, records, strict=True)
            found += self._readable((lease, record) for lease, record in pairs if record is not None)
        return found

    def restore(self, claimed: Claimed, *, died: bool, was_begun: bool = True, front: bool = True) -> bool:
        """Put the message back into its list, under another tag; whether it was still there.

        Args:
            claimed: The message.
            died: Its worker died while it held it.
            was_begun: Its worker ran it, so that this is a further attempt.
            front: It is the next to be taken, as it was before.
        """
        keys = [*self._records, self._leases, self._taken(claimed.lease), self._counts, claimed.lease.list_key]
        args: list[Argument] = [
            str(claimed.lease),
            json.dumps(_handed_out_again(claimed.message, died=died, was_begun=was_begun)),
            "front" if front else "back",
            delivery_keys.TAKEN_TTL_S,
            "redelivered" if died else "handed_back",
        ]
        return bool(_RESTORE.run(self.client, keys, args))

    def send_back_command(self, lease: Lease, message: Message) -> tuple[list[str], list[Argument]]:
        """The keys and arguments of `send_back.lua`: the message takes the lease's place in its list."""
        return [*self._records, self._leases, lease.list_key], [str(lease), json.dumps(message)]

    def bury(self, claimed: Claimed, reason: str, deaths: int = 0) -> bool:
        """Put the message among the dead letters; whether it was still there."""
        headers = headers_of(claimed.message)
        fields: dict[str, Argument] = {
            "message": json.dumps(claimed.message),
            "task": str(headers.get("task", "")),
            "task_id": str(headers.get("id", "")),
            "deaths": deaths,
        }
        return self._bury(claimed.lease, reason, fields)

    def bury_unreadable(self, lease: Lease, raw: bytes) -> None:
        """Put what the server took for a message among the dead letters."""
        self._bury(lease, "it cannot be read", {"message": raw})

    def _bury(self, lease: Lease, reason: str, known: dict[str, Argument]) -> bool:
        fields = {**known, "queue": lease.list_key, "reason": reason}
        keys = [*self._records, self._leases, self._taken(lease), self._counts, self._key(delivery_keys.DEAD)]
        args: list[Argument] = [str(lease), delivery_keys.TAKEN_TTL_S, uuid4().hex, DEAD_TTL_S]
        return bool(_BURY_HELD.run(self.client, keys, [*args, *(part for pair in fields.items() for part in pair)]))

    def count(self, what: str, number: int = 1) -> None:
        """So many more of what did not go the usual way."""
        self.client.hincrby(self._counts, what, number)
        self.client.expire(self._counts, delivery_keys.COUNTS_TTL_S)

    def _readable(self, records: Iterable[tuple[Lease, bytes]]) -> list[Claimed]:
        """The messages in these records. One that cannot be read must not be in the way of all others."""
        found: list[Claimed] = []
        for lease, record in records:
            parts = _decoded(record)
            message = _checked(cast("list[object]", parts)[0]) if isinstance(parts, list) and parts else None
            if message is None:
                self.bury_unreadable(lease, record)
            else:
                found.append(Claimed(lease, message))
        return found

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


def message_in(raw: bytes) -> Message | None:
    """The message in these bytes, as they were in a queue; None where it cannot be read."""
    return _checked(_decoded(raw))


def headers_of(message: Message) -> Message:
    """The message's headers; empty where it has none."""
    headers = message.get("headers")
    return cast(Message, headers) if isinstance(headers, dict) else {}


def deaths_of(message: Message) -> int:
    """How many workers died while they held it."""
    deaths = headers_of(message).get(DEATHS_HEADER, 0)
    return deaths if isinstance(deaths, int) else 0


def as_waiting(message: Message) -> Message:
    """The message as a worker records it that holds it back for now: should the worker die, it is not to blame."""
    return {**message, "headers": {**headers_of(message), _WAITS_HEADER: True}}


def is_waiting(message: Message) -> bool:
    """Its worker holds it back."""
    return bool(headers_of(message).get(_WAITS_HEADER))


def _handed_out_again(message: Message, *, died: bool, was_begun: bool) -> Message:
    """The message as it is handed out once more: under another tag, so that its last holder can settle it no more."""
    headers = {name: value for name, value in headers_of(message).items() if name != _WAITS_HEADER}
    attempt = headers.get(ATTEMPT_HEADER, 1)
    headers |= {"redelivered": True, ATTEMPT_HEADER: (attempt if isinstance(attempt, int) else 1) + was_begun}
    if died:
        headers[DEATHS_HEADER] = deaths_of(message) + 1
    properties = {**cast(Message, message["properties"]), "delivery_tag": str(uuid4())}
    properties["delivery_info"] = {**cast(Message, properties["delivery_info"]), "redelivered": True}
    return {**message, "headers": headers, "properties": properties}


def _record_of(message: Message) -> str:
    info = message["properties"]["delivery_info"]
    return json.dumps([message, info.get("exchange") or "", info.get("routing_key") or ""])


def _decoded(raw: bytes) -> object:
    """What these bytes say; None for what is no JSON: the server's reader lets pass what Python's does not."""
    try:
        return decoded(raw)
    except (ValueError, RecursionError):
        return None


def _checked(document: object) -> Message | None:
    """The message that this is, if it has all that is read here."""
    try:
        message = cast(Message, document)
        properties = message["properties"]
        headers = cast(Message, message.get("headers") or {})
        # What Celery cannot name, it cannot finish either: it would take up room for ever.
        names = [headers[name] for name in ("id", "task") if name in headers]
        texts: list[object] = [properties["delivery_tag"], message["body"], *(name or None for name in names)]
        mappings: list[object] = [properties["delivery_info"], headers]
    except (KeyError, TypeError, AttributeError):
        return None
    are_right = all(isinstance(one, str) for one in texts) and all(isinstance(one, dict) for one in mappings)
    return message if are_right else None


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    """A list of pairs, out of one in which they stand in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def _portions(leases: Sequence[Lease]) -> list[Sequence[Lease]]:
    return [leases[start : start + _MOST_AT_ONCE] for start in range(0, len(leases), _MOST_AT_ONCE)]
