"""Numbers: spreads over rounds, percentiles, and what a group of processes used."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

T = TypeVar("T")

_MB: Final = 1e6


@dataclass(frozen=True)
class Spread:
    """One figure over all rounds: the median, and the range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 0) -> str:
        """As the tables show it: `12 [10..15]`; one round has no range."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}..{self.high:.{digits}f}]"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def ratios(values: Sequence[float], bases: Sequence[float]) -> Spread:
    """Each round's value beside the same round's base: a machine that slows down slows both."""
    return Spread.of([value / base for value, base in zip(values, bases, strict=True)])


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The items, started at another one each round: nobody always runs first."""
    start = by % len(items)
    return [*items[start:], *items[:start]]


@dataclass(frozen=True)
class Usage:
    """What a process and its children hold and have used so far.

    Attributes:
        cpu_s: CPU seconds, of those that still run.
        rss_mb: Resident memory, added up: what children share is counted once for each.
        pss_mb: The same with shared pages counted once in all.
        peak_rss_mb: The largest resident memory so far, added up.
        processes: How many there are.
    """

    cpu_s: float
    rss_mb: float
    pss_mb: float
    peak_rss_mb: float
    processes: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        members = family(pid)
        memory = [one.memory_full_info() for one in members]
        return cls(
            cpu_s=cpu_seconds(pid),
            rss_mb=sum(one.rss for one in memory) / _MB,
            # Only Linux knows what is shared, and the peak.
            pss_mb=sum(getattr(one, "pss", one.rss) for one in memory) / _MB,
            peak_rss_mb=sum(_peak_rss(one.pid, now.rss) for one, now in zip(members, memory, strict=True)) / _MB,
            processes=len(members),
        )


def cpu_seconds(pid: int) -> float:
    """CPU that a process and its children have used so far, of those that still run."""
    times = [one.cpu_times() for one in family(pid)]
    return sum(one.user + one.system for one in times)


def family(pid: int) -> list[psutil.Process]:
    """The process and all that come from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _peak_rss(pid: int, now: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return now
