"""What the counters say: sums, rates and quantiles. Pure functions of counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from kagura_tasks.metrics.names import BUCKETS_S, ERROR, NONE, Histogram, Series
from kagura_tasks.metrics.tally import USD

#: Counters by what they are about.
Table = Mapping[Series, Counter[str]]

#: What a table can be broken down by.
Dimension = Literal["tenant", "model", "task"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("model", "tenant", "task")


class Figures:
    """What some counters say. A rate or a quantile of nothing is None."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """Take the counters, by name."""
        self.counts = Counter(counts)

    @property
    def tasks(self) -> int:
        """Tasks that came to an end: an answer, an error, or a cancellation."""
        return self.counts["done"] + self.counts["failed"] + self.counts["cancelled"]

    @property
    def tokens(self) -> int:
        """Of prompts and answers of all calls."""
        return self.counts["prompt_tokens"] + self.counts["completion_tokens"]

    @property
    def cost_usd(self) -> float:
        """Of all calls whose price is known."""
        return self.counts["cost_picousd"] / USD

    @property
    def cache_hit_rate(self) -> float | None:
        """Hits among all look-ups in the cache of answers, from 0 to 1."""
        return _share(self.counts["cache_hits"], self.counts["cache_hits"] + self.counts["cache_misses"])

    @property
    def provider_cache_hit_rate(self) -> float | None:
        """Tokens that providers had cached among all tokens of prompts, from 0 to 1."""
        return _share(self.counts["cached_prompt_tokens"], self.counts["prompt_tokens"])

    @property
    def errors(self) -> dict[str, int]:
        """How many calls failed, by the name of the error."""
        named = {name.removeprefix(ERROR): count for name, count in self.counts.items() if name.startswith(ERROR)}
        return dict(sorted(named.items()))

    @property
    def failed_calls(self) -> int:
        """Calls of providers that ended with an error."""
        return sum(self.errors.values())

    def quantile_s(self, histogram: str, share: float) -> float | None:
        """The duration (s) that this share of the observations stayed below, by estimate: see `quantile_s`."""
        return quantile_s(self.buckets(histogram), share)

    def buckets(self, histogram: str) -> list[int]:
        """How many observations lie in each bucket, the one above all bounds last."""
        return [self.counts[Histogram.bucket(histogram, number)] for number in range(len(BUCKETS_S) + 1)]

    def sum_s(self, histogram: str) -> float:
        """The sum of all observations (s)."""
        return self.counts[Histogram.sum(histogram)] / 1e6

    def to_json(self) -> dict[str, object]:
        """All of it, for machines."""
        counted = (
            *("done", "failed", "cancelled", "retried", "cached", "calls", "unpriced_calls"),
            *("prompt_tokens", "completion_tokens", "cached_prompt_tokens"),
            *("cache_hits", "cache_misses", "cache_shared"),
        )
        return {
            **{name: self.counts[name] for name in counted},
            "failed_calls": self.failed_calls,
            "errors": self.errors,
            "cost_usd": self.cost_usd,
            "cache_hit_rate": self.cache_hit_rate,
            "provider_cache_hit_rate": self.provider_cache_hit_rate,
        }

    def quantiles_to_json(self) -> dict[str, float | None]:
        """Medians and 95th percentiles of all histograms (s)."""
        at = {"p50": 0.5, "p95": 0.95}
        return {f"{name}_{label}": self.quantile_s(name, share)
                for name in Histogram.ALL for label, share in at.items()}  # fmt: skip


def merged(tables: Iterable[Table]) -> dict[Series, Counter[str]]:
    """The sums of several tables."""
    sums: dict[Series, Counter[str]] = {}
    for table in tables:
        for series, counts in table.items():
            sums.setdefault(series, Counter()).update(counts)
    return sums


def all_of(table: Table) -> Figures:
    """The figures of a whole table."""
    counts: Counter[str] = Counter()
    for some in table.values():
        counts.update(some)
    return Figures(counts)


def by(table: Table, dimension: Dimension) -> dict[str, Figures]:
    """The figures by tenant, model or task, those that cost most first. Look-ups in the cache are part of no task."""
    sums: dict[str, Counter[str]] = {}
    for series, counts in table.items():
        if dimension == "task" and series.task == NONE:
            continue
        sums.setdefault(getattr(series, dimension), Counter()).update(counts)
    found = {name: Figures(counts) for name, counts in sums.items()}
    return dict(sorted(found.items(), key=lambda one: (-one[1].cost_usd, -one[1].tokens, one[0])))


def quantile_s(buckets: list[int], share: float) -> float | None:
    """The duration (s) that this share of the observations stayed below; None where there are none.

    By estimate, as Prometheus makes it: observations are taken to lie evenly in their bucket. What is above the last
    bound is said to be at it.
    """
    total = sum(buckets)
    if not total:
        return None
    rank, below = share * total, 0
    for low, high, count in zip((0.0, *BUCKETS_S), BUCKETS_S, buckets, strict=False):
        if count and below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below += count
    return BUCKETS_S[-1]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
