"""A stream's log in Redis: where it is, and how it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from redis.exceptions import ResponseError

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import AsyncRedis
from kagura_tasks.streaming.events import Event, Gap, Lost, parse

_HERE: Final = __package__ or ""

RESERVE: Final = LuaScript.load(_HERE, "reserve.lua")
BEGIN: Final = LuaScript.load(_HERE, "live.lua", "begin.lua")
APPEND: Final = LuaScript.load(_HERE, "live.lua", "append.lua")

#: Seconds of silence after which a stream that is being written (live.lua) is dead.
LIVE_S: Final = 60.0

#: Events that are read in one round trip.
PAGE: Final = 500

#: The last entry of a number: ours end in -0.
_LAST_PART: Final = 2**64 - 1

#: Task ids that Celery's users have: UUIDs, and names of their own.
_TASK_ID: Final = re.compile(r"[\w.:@/+-]{1,200}\Z", re.ASCII)


@dataclass(frozen=True)
class StreamName:
    """Whose stream it is. Raises InvalidRequest where the task's id cannot be one."""

    tenant: str
    task_id: str

    def __post_init__(self) -> None:
        """The id becomes part of a key, and may come from a URL."""
        if not _TASK_ID.match(self.task_id):
            raise InvalidRequest("a task's id has 1 to 200 letters, digits and . _ - : @ / +")

    @property
    def key(self) -> str:
        """The log, and the channel on which its events are published."""
        return f"kagura:stream:{self.tenant}:{self.task_id}"

    @property
    def state_key(self) -> str:
        """What is known of the stream as a whole."""
        return f"{self.key}:state"


class LogPage(NamedTuple):
    """Part of a log, as it was at one moment.

    Attributes:
        events: What there is behind the number that was asked for; None stands for an entry that is not ours.
        numbers: The entries' numbers.
        last_seq: The number of the stream's last event, 0 where there is none.
        is_known: Somebody is going to write it, is writing it, or wrote it.
        is_begun: A worker has begun.
        is_ended: Its last event is there.
    """

    events: tuple[Event | None, ...]
    numbers: tuple[int, ...]
    last_seq: int
    is_known: bool
    is_begun: bool
    is_ended: bool

    @property
    def is_full(self) -> bool:
        """There may be more behind it."""
        return len(self.numbers) == PAGE


async def read_page(client: AsyncRedis, name: StreamName, after: int) -> LogPage:
    """The events behind this number, up to PAGE of them, in one round trip."""
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.xrange(name.key, f"({after}-{_LAST_PART}", "+", PAGE)
        pipeline.hmget(name.state_key, ["seq", "attempt", "ended", "reserved"])
        try:
            entries, state = await pipeline.execute()
        except ResponseError:
            # Somebody keeps something else under the stream's keys: there is no stream.
            return LogPage((), (), 0, is_known=False, is_begun=False, is_ended=False)
    found = cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)
    seq, attempt, ended, reserved = cast("list[bytes | None]", state)
    numbers = tuple(int(entry.partition(b"-")[0]) for entry, _ in found)
    return LogPage(
        events=tuple(_event_in(fields, number) for number, (_, fields) in zip(numbers, found, strict=True)),
        numbers=numbers,
        last_seq=int(seq or 0),
        is_known=bool(found or attempt or reserved),
        is_begun=attempt is not None,
        is_ended=ended is not None,
    )


def written(payload: bytes) -> Event | None:
    """The event in these bytes, as a writer wrote it; None where there is none in them."""
    event = parse(payload)
    return None if isinstance(event, Gap | Lost) else event


def _event_in(fields: dict[bytes, bytes], number: int) -> Event | None:
    event = written(fields.get(b"event", b""))
    return event if event is not None and event.seq == number else None
