"""`kagura-tasks stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kagura_tasks.cli.options import AsJson

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from kagura_tasks.metrics.figures import Dimension, Figures, Table
    from kagura_tasks.metrics.snapshot import Snapshot

_COLUMNS: Final = ("tasks", "failed", "calls", "tokens", "cost (USD)", "cache", "provider's cache")


def stats(as_json: AsJson = False) -> None:
    """Print what the fleet does: calls, tokens, cost, waits and hit rates, by model, tenant and task.

    The numbers are exact, and the fleet's: workers count in Redis as they settle tasks. See `top` for a live view.
    """
    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.metrics.figures import DIMENSIONS
    from kagura_tasks.metrics.snapshot import read_snapshot
    from kagura_tasks.settings import load_settings

    settings = load_settings()
    require_redis(settings.broker, settings.results, settings.cache)
    snapshot, screen = read_snapshot(settings), Screen(as_json)
    screen.document(snapshot.to_json())
    for line in summary(snapshot):
        screen.say(line)
    for name in DIMENSIONS:
        screen.say()
        screen.table(breakdown(snapshot.total, name))


def summary(snapshot: Snapshot) -> list[str]:
    """The fleet in a few lines."""
    from kagura_tasks.metrics.figures import all_of
    from kagura_tasks.metrics.names import Histogram

    calls_per_s, tokens_per_s = snapshot.per_second()
    hour, today, total = all_of(snapshot.last_hour), all_of(snapshot.today), all_of(snapshot.total)
    slow = f"first chunk {in_seconds(hour, Histogram.FIRST_CHUNK)}, queue {in_seconds(hour, Histogram.QUEUE_WAIT)}"
    caches = f"cache {percent(total.cache_hit_rate)}, provider's cache {percent(total.provider_cache_hit_rate)}"
    waiting = ", ".join(f"{count:,} in {name}" for name, count in snapshot.queues.items() if count) or "nothing"
    return [
        f"Now          {calls_per_s:.2f} calls/s, {tokens_per_s:,.0f} tokens/s, {snapshot.live_streams} live streams",
        f"Waiting      {waiting}; {snapshot.dead_letters:,} dead letters",
        f"Last hour    {hour.counts['calls']:,} calls, {hour.failed_calls:,} failed; {slow}",
        f"Today        {today.counts['calls']:,} calls, {today.tokens:,} tokens, {today.cost_usd:.4f} USD (UTC)",
        f"In all       {total.counts['calls']:,} calls, {total.tokens:,} tokens, {total.cost_usd:.4f} USD; {caches}",
    ]


def breakdown(table: Table, dimension: Dimension) -> RichTable:
    """The figures by model, tenant or task. The cache is asked before there is a task, so none has a hit rate."""
    from rich.table import Table as RichTable

    from kagura_tasks.metrics.figures import by

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    shown.add_column(dimension)
    for column in _COLUMNS:
        shown.add_column(column, justify="right")
    for label, figures in by(table, dimension).items():
        shown.add_row(label, *_row(figures))
    return shown


def in_seconds(figures: Figures, histogram: str) -> str:
    """Median and 95th percentile of a histogram."""
    p50, p95 = (figures.quantile_s(histogram, share) for share in (0.5, 0.95))
    return "-" if p50 is None or p95 is None else f"{p50:.3g} s (p95 {p95:.3g} s)"


def percent(rate: float | None) -> str:
    """A rate for people; a dash where there is none."""
    return "-" if rate is None else f"{rate:.1%}"


def _row(figures: Figures) -> list[str]:
    counts = figures.counts
    return [
        f"{figures.tasks:,}",
        f"{counts['failed']:,}",
        f"{counts['calls']:,}",
        f"{figures.tokens:,}",
        f"{figures.cost_usd:.4f}",
        percent(figures.cache_hit_rate),
        percent(figures.provider_cache_hit_rate),
    ]
