"""What makes a Redis unfit for queues and results, judged by what it tells about itself (INFO)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: A Redis that is fuller than this has little time left.
_FULL: Final = 0.9

_AT_STAKE: Final = {"broker": "queued tasks", "results": "results"}


@dataclass(frozen=True)
class Problem:
    """Something that works, and may cost tasks or answers one day.

    Attributes:
        message: What was found.
        mend: What to do about it; it names the setting.
    """

    message: str
    mend: str


def problems_of(info: Mapping[str, object], duties: Collection[str]) -> Iterator[Problem]:
    """What is wrong with a server that has these duties: "broker", "results", "cache". A cache alone may lose anything.

    A managed Redis may keep parts of its INFO, and all of CONFIG, to itself: what is not told is not judged, but for
    the eviction policy, which counts as in force unless the server says that it has no limit.
    """
    at_stake = " and ".join(what for duty, what in _AT_STAKE.items() if duty in duties)
    if at_stake:
        yield from _eviction(info, at_stake)
        yield from _memory(info)
        yield from _persistence(info, at_stake)


def _eviction(info: Mapping[str, object], at_stake: str) -> Iterator[Problem]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory") != 0:
        mend = "set `maxmemory-policy noeviction`, and give the cache a Redis of its own (KAGURA_TASKS_CACHE_URL)"
        yield Problem(f"maxmemory-policy is {policy}: {at_stake} may be thrown away", mend)


def _memory(info: Mapping[str, object]) -> Iterator[Problem]:
    used, most = _bytes(info, "used_memory"), _bytes(info, "maxmemory")
    if most and used > most * _FULL:
        message = f"{used / most:.0%} of maxmemory ({_megabytes(most)}) is used: the server is nearly full"
        yield Problem(message, "raise `maxmemory`, or give the cache a Redis of its own (KAGURA_TASKS_CACHE_URL)")
    machine = _bytes(info, "total_system_memory")
    if machine and not most and used > machine * _FULL:
        message = f"{used / machine:.0%} of the machine's memory ({_megabytes(machine)}) is used, and maxmemory is 0"
        yield Problem(message, "give the machine more memory, and set `maxmemory` below it")


def _persistence(info: Mapping[str, object], at_stake: str) -> Iterator[Problem]:
    if info.get("aof_enabled") == 0:
        message = f"appendonly is no: a restart of the server loses {at_stake} since its last snapshot, if it makes any"
        yield Problem(message, "set `appendonly yes`")


def _bytes(info: Mapping[str, object], name: str) -> int:
    """0 where the server does not tell."""
    value = info.get(name)
    return value if isinstance(value, int) else 0


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.0f} MB"
