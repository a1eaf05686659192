"""`kagura-tasks top`."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kagura_tasks.settings import Settings


def top(
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, help="Seconds between two looks.")
    ] = 2.0,
    count: Annotated[int | None, typer.Option(min=1, show_default="until Ctrl-C", help="Looks.")] = None,
) -> None:
    """Watch what the fleet does: the numbers of `stats`, again and again.

    In a terminal they replace each other; in a log or a pipe they follow one another.
    """
    from rich.console import Console
    from rich.live import Live

    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.settings import load_settings

    settings, console = load_settings(), Console(highlight=False, markup=False)
    require_redis(settings.broker, settings.results, settings.cache)
    left = count
    with suppress(KeyboardInterrupt), Live(console=console, screen=console.is_terminal and count is None) as live:
        while left is None or left > 0:
            shown = _shown(settings)
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown)
            left = None if left is None else left - 1
            if left != 0:
                time.sleep(interval_s)


def _shown(settings: Settings) -> RenderableType:
    """The fleet now; where Redis is away, a line that says so: the next look may find it."""
    from rich.console import Group
    from rich.text import Text

    from kagura_tasks.cli.stats import breakdown, summary
    from kagura_tasks.errors import RedisUnreachable
    from kagura_tasks.metrics.figures import DIMENSIONS
    from kagura_tasks.metrics.snapshot import read_snapshot

    title = Text(time.strftime("%H:%M:%S"), style="bold")
    try:
        snapshot = read_snapshot(settings)
    except RedisUnreachable as error:
        return Group(title, Text(str(error), style="yellow"))
    lines = [Text(line) for line in summary(snapshot)]
    tables = [part for name in DIMENSIONS for part in (Text(), breakdown(snapshot.today, name))]
    return Group(title, *lines, Text("\nToday (UTC)"), *tables)
