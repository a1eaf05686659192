"""Everything that is known of the fleet at one moment, read from Redis. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from kombu.transport.redis import Channel

from kagura_tasks.connections import redis_errors, sync_client
from kagura_tasks.dead_letters import DeadLetters
from kagura_tasks.lua import LuaScript
from kagura_tasks.metrics.figures import DIMENSIONS, Figures, Table, all_of, by, merged
from kagura_tasks.metrics.names import Series
from kagura_tasks.queues import PRIORITY_STEPS, all_queues
from kagura_tasks.settings import RedisUrl, Settings
from kagura_tasks.streaming.log import LIVE_S

_SNAPSHOT: Final = LuaScript.load(__package__ or "", "snapshot.lua")

_DAY_MINUTES: Final = 1_440

#: Minutes of the last hour; the newest of them is not over yet.
MINUTES: Final = 60

#: Live streams that are named; of the others it is known how many there are.
_MOST_NAMED: Final = 20

#: What stands between a queue's name and its priority, in the name of a list (kombu).
_SEPARATOR: Final = Channel.sep


class LiveStream(NamedTuple):
    """A stream that a worker is writing, and the seconds since it last wrote."""

    tenant: str
    task_id: str
    silent_s: float


@dataclass(frozen=True)
class Snapshot:
    """The fleet at one moment.

    Attributes:
        at_s: By the clock of the Redis that holds the results (Unix s).
        total: All counters, since they began to be counted.
        today: Those of this day (UTC), without histograms.
        minutes: Those of each minute of the last hour, oldest first; the newest is not over yet.
        live_streams: How many streams are being written.
        newest_streams: Some of them.
        dead_letters: How many messages no worker will try again.
        queues: How many messages wait, by queue.
    """

    at_s: float
    total: Table
    today: Table
    minutes: tuple[Table, ...]
    live_streams: int
    newest_streams: tuple[LiveStream, ...]
    dead_letters: int
    queues: dict[str, int]

    @property
    def last_hour(self) -> Table:
        """The counters of the last hour."""
        return merged(self.minutes)

    @property
    def lately(self) -> Table:
        """The counters of the minute that runs and the one before."""
        return merged(self.minutes[-2:])

    def per_second(self, lately: Figures | None = None) -> tuple[float, float]:
        """Calls and tokens a second, of all or of a part of what was done lately."""
        some = lately or all_of(self.lately)
        seconds = 60 + self.at_s % 60
        return some.counts["calls"] / seconds, some.tokens / seconds

    def to_json(self) -> dict[str, object]:
        """All of it, for machines: numbers, and names of models, tenants and tasks."""
        calls_per_s, tokens_per_s = self.per_second()
        last_hour = self.last_hour
        return {
            "at_s": self.at_s,
            "calls_per_s": calls_per_s,
            "tokens_per_s": tokens_per_s,
            "total": _broken_down(self.total),
            "today": _broken_down(self.today),
            "last_hour": {**_broken_down(last_hour), **all_of(last_hour).quantiles_to_json()},
            "live_streams": self.live_streams,
            "dead_letters": self.dead_letters,
            "queues": self.queues,
        }


def read_snapshot(settings: Settings) -> Snapshot:
    """The fleet as it is now. Raises RedisUnreachable."""
    servers = list(dict.fromkeys([settings.results, settings.broker, settings.cache]))
    parts = [_read(url, settings.redis_timeout_s) for url in servers]
    at_s, streams = parts[0].at_s, parts[0].streams
    named = sorted(streams, key=lambda stream: stream.silent_s)[:_MOST_NAMED]
    return Snapshot(
        at_s=at_s,
        total=merged(part.total for part in parts),
        today=merged(part.today for part in parts),
        minutes=tuple(merged(some) for some in zip(*(part.minutes for part in parts), strict=True)),
        live_streams=len(streams),
        newest_streams=tuple(named),
        dead_letters=DeadLetters(settings).count(),
        queues=_queues(settings),
    )


class _Part(NamedTuple):
    """What one server holds. See Snapshot."""

    at_s: float
    streams: list[LiveStream]
    total: Table
    today: Table
    minutes: list[Table]


def _read(url: RedisUrl, timeout_s: float) -> _Part:
    with redis_errors(url):
        reply = cast("list[Any]", _SNAPSHOT.run(sync_client(url, timeout_s), [], [MINUTES]))
    seconds, microseconds, streams, total, day, number, minute, minutes = reply
    at_s, open_minute = seconds + microseconds / 1e6, _table(minute)
    is_of_today = number // _DAY_MINUTES == seconds // 86_400
    return _Part(
        at_s=at_s,
        streams=_live(streams, at_s),
        total=merged([_table(total), open_minute]),
        today=merged([_table(day), open_minute if is_of_today else {}]),
        minutes=[_table(fields) for fields in minutes],
    )


def _table(fields: Sequence[bytes]) -> Table:
    """The counters in a hash, whose fields and values come in turn. What is no counter of ours is passed over."""
    table: dict[Series, Counter[str]] = {}
    for field, value in zip(fields[::2], fields[1::2], strict=True):
        parts = field.decode("utf-8", "replace").split(" ")
        if len(parts) == 4 and value.lstrip(b"-").isdigit():
            table.setdefault(Series(*parts[:3]), Counter())[parts[3]] = int(value)
    return table


def _live(found: Sequence[bytes], at_s: float) -> list[LiveStream]:
    streams: list[LiveStream] = []
    for member, last_ms in zip(found[::2], found[1::2], strict=True):
        tenant, _, task_id = member.decode("utf-8", "replace").partition(" ")
        silent_s = max(0.0, at_s - float(last_ms) / 1000)
        if silent_s < LIVE_S:
            streams.append(LiveStream(tenant, task_id, silent_s))
    return streams


def _queues(settings: Settings) -> dict[str, int]:
    names = [queue.name for queue in all_queues()]
    client = sync_client(settings.broker, settings.redis_timeout_s)
    with redis_errors(settings.broker), client.pipeline(transaction=False) as pipe:
        for name in names:
            for step in PRIORITY_STEPS:
                pipe.llen(f"{name}{_SEPARATOR}{step}" if step else name)
        lengths = cast("list[int]", pipe.execute())
    steps = len(PRIORITY_STEPS)
    return {name: sum(lengths[at * steps :][:steps]) for at, name in enumerate(names)}


def _broken_down(table: Table) -> dict[str, object]:
    parts = {f"by_{name}": {label: figures.to_json() for label, figures in by(table, name).items()}
             for name in DIMENSIONS}  # fmt: skip
    return {**all_of(table).to_json(), **parts}
