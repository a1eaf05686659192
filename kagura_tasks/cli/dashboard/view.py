"""What the page shows, made of a snapshot. Names and numbers only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from kagura_tasks.cli.dashboard.charts import Chart, Line, short
from kagura_tasks.cli.dashboard.limits import LimitRow, rows_of
from kagura_tasks.limits.store import Standing
from kagura_tasks.metrics.figures import DIMENSIONS, Dimension, Figures, all_of, by
from kagura_tasks.metrics.names import Histogram
from kagura_tasks.metrics.snapshot import LiveStream, Snapshot


@dataclass(frozen=True)
class Card:
    """One number that matters. `name` and `value` are for machines that read the page."""

    name: str
    title: str
    text: str
    detail: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """Today's figures of a model, a tenant or a task, its waits in the last hour, and calls and tokens a second now."""

    label: str
    today: Figures
    last_hour: Figures
    per_second: tuple[float, float]

    @property
    def cells(self) -> list[tuple[str, str, float | None]]:
        """Each column's name, its text, and its exact value."""
        counts = self.today.counts
        first = self.last_hour.quantile_s(Histogram.FIRST_CHUNK, 0.95)
        wait = self.last_hour.quantile_s(Histogram.QUEUE_WAIT, 0.95)
        calls_per_s, tokens_per_s = self.per_second
        return [
            ("calls_per_s", short(calls_per_s), calls_per_s),
            ("tokens_per_s", short(tokens_per_s), tokens_per_s),
            ("tasks", f"{self.today.tasks:,}", self.today.tasks),
            ("failed", f"{counts['failed']:,}", counts["failed"]),
            ("calls", f"{counts['calls']:,}", counts["calls"]),
            ("tokens", f"{self.today.tokens:,}", self.today.tokens),
            ("cost_usd", dollars(self.today.cost_usd), self.today.cost_usd),
            ("cache_hit_rate", short(self.today.cache_hit_rate, "%"), self.today.cache_hit_rate),
            (
                "provider_cache_hit_rate",
                short(self.today.provider_cache_hit_rate, "%"),
                self.today.provider_cache_hit_rate,
            ),
            ("first_chunk_p95", short(first, "s"), first),
            ("queue_wait_p95", short(wait, "s"), wait),
        ]


#: The columns' headings, in the order of Row.cells.
COLUMNS: Final = (
    "Calls/s", "Tokens/s", "Tasks", "Failed", "Calls", "Tokens", "Cost",
    "Cache", "Provider's cache", "First chunk p95", "Queue wait p95",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """Everything on the page."""

    cards: tuple[Card, ...]
    charts: tuple[Chart, ...]
    tables: dict[str, list[Row]]
    limits: list[LimitRow]
    streams: tuple[LiveStream, ...]
    live_streams: int
    dead_letters: int
    queues: dict[str, int]


def view_of(snapshot: Snapshot, standings: Iterable[Standing]) -> View:
    """What the page shows of this moment."""
    return View(
        cards=_cards(snapshot),
        charts=_charts(snapshot),
        tables={name: _rows(snapshot, name) for name in DIMENSIONS},
        limits=rows_of(standings),
        streams=snapshot.newest_streams,
        live_streams=snapshot.live_streams,
        dead_letters=snapshot.dead_letters,
        queues=snapshot.queues,
    )


def dollars(usd: float) -> str:
    """A price with as many digits as it needs: a call costs less than a cent."""
    digits = 2 if usd >= 100 or not usd else 4 if usd >= 0.01 else 7
    return f"${usd:,.{digits}f}"


def _cards(snapshot: Snapshot) -> tuple[Card, ...]:
    calls_per_s, tokens_per_s = snapshot.per_second()
    hour, today = all_of(snapshot.last_hour), all_of(snapshot.today)
    waiting = sum(snapshot.queues.values())
    return (
        Card("tokens_per_s", "Tokens/s", short(tokens_per_s), f"{today.tokens:,} today", tokens_per_s),
        Card("calls_per_s", "Calls/s", short(calls_per_s), f"{today.counts['calls']:,} today", calls_per_s),
        _durations("first_chunk_s", "Time to first chunk", hour, Histogram.FIRST_CHUNK),
        _durations("queue_wait_s", "Wait in the queue", hour, Histogram.QUEUE_WAIT),
        _rate("cache_hit_rate", "Cache hits", today.cache_hit_rate),
        _rate("provider_cache_hit_rate", "Provider's cache hits", today.provider_cache_hit_rate),
        Card("cost_usd", "Cost today (UTC)", dollars(today.cost_usd), _unpriced(today), today.cost_usd),
        Card("waiting", "Waiting", f"{waiting:,}", f"{snapshot.dead_letters:,} dead letters", waiting),
    )


def _durations(name: str, title: str, figures: Figures, histogram: str) -> Card:
    p50, p95 = figures.quantile_s(histogram, 0.5), figures.quantile_s(histogram, 0.95)
    return Card(name, title, short(p50, "s"), f"p95 {short(p95, 's')}, last hour", p50)


def _rate(name: str, title: str, rate: float | None) -> Card:
    return Card(name, title, short(rate, "%"), "today", rate)


def _unpriced(figures: Figures) -> str:
    count = figures.counts["unpriced_calls"]
    return f"{count:,} calls of unknown price" if count else "all prices known"


def _rows(snapshot: Snapshot, dimension: Dimension) -> list[Row]:
    """Whoever did something today or in the last hour; the sum of all comes first."""
    today, hour, now = (by(table, dimension) for table in (snapshot.today, snapshot.last_hour, snapshot.lately))
    nothing = Figures({})

    def row(name: str) -> Row:
        per_second = snapshot.per_second(now.get(name, nothing))
        return Row(name, today.get(name, nothing), hour.get(name, nothing), per_second)

    all_together = Row("All", all_of(snapshot.today), all_of(snapshot.last_hour), snapshot.per_second())
    return [all_together, *map(row, dict.fromkeys([*today, *hour]))]


def _charts(snapshot: Snapshot) -> tuple[Chart, ...]:
    minutes = [all_of(table) for table in snapshot.minutes]
    # Of the minute that runs, so many seconds are over.
    seconds = [60.0] * (len(minutes) - 1) + [max(snapshot.at_s % 60, 1.0)]

    def rates(name: str, count: Callable[[Figures], float]) -> Line:
        return Line(name, [count(one) / length for one, length in zip(minutes, seconds, strict=True)])

    def of(name: str, value: Callable[[Figures], float | None]) -> Line:
        return Line(name, [value(one) for one in minutes])

    def waits(histogram: str) -> tuple[Line, Line]:
        p50 = of("p50", lambda one: one.quantile_s(histogram, 0.5))
        return p50, of("p95", lambda one: one.quantile_s(histogram, 0.95))

    hit_rates = (
        of("cache", lambda one: one.cache_hit_rate),
        of("provider's cache", lambda one: one.provider_cache_hit_rate),
    )
    calls = rates("calls", lambda one: one.counts["calls"]), rates("failed", lambda one: one.failed_calls)
    return (
        Chart("Tokens/s", "", (rates("tokens", lambda one: one.tokens),)),
        Chart("Calls/s", "", calls),
        Chart("Cost", "USD/min", (of("cost", lambda one: one.cost_usd),)),
        Chart("Time to first chunk", "s", waits(Histogram.FIRST_CHUNK)),
        Chart("Wait in the queue", "s", waits(Histogram.QUEUE_WAIT)),
        Chart("Hit rates", "%", hit_rates, ceiling=1.0),
    )
