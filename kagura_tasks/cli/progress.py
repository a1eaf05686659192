"""How far a map or a run over files is, on standard error: a bar where somebody watches, else a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from kagura_tasks.errors import KaguraTasksError

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.groups import GroupHandle, MapProgress

#: Seconds between two looks at the map, and between two lines in a log.
_LOOK_S: Final = 0.5
_LINE_S: Final = 10.0


@contextmanager
def shown(group: GroupHandle, screen: Screen) -> Generator[None]:
    """Show it while the block runs, from a thread of its own: whoever waits for answers cannot."""
    with _display(screen) as show:
        over = threading.Event()
        looking = threading.Thread(target=_look, args=[group, show, over], daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()


def in_words(progress: MapProgress) -> str:
    """All that is worth knowing, in one line."""
    parts = [
        f"{progress.settled:,}/{progress.total:,}",
        *([f"{progress.failed:,} failed"] if progress.failed else []),
        *([f"{progress.cached:,} cached"] if progress.cached else []),
        f"{progress.total_tokens:,} tokens",
        f"${progress.cost_usd:,.4f}" + (f" of ${progress.budget_usd:,.2f}" if progress.budget_usd else ""),
        *(_pace(progress) if progress.state == "running" else []),
    ]
    return ", ".join(parts)


def _pace(progress: MapProgress) -> list[str]:
    """Nothing where it is not known yet."""
    if not progress.rate_per_s or not progress.eta_s:
        return []
    return [f"{progress.rate_per_s:,.1f}/s", f"{_duration(progress.eta_s)} left"]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _look(group: GroupHandle, show: Callable[[MapProgress], None], over: threading.Event) -> None:
    while not over.wait(_LOOK_S):
        with suppress(KaguraTasksError):  # whoever reads the answers says it
            show(group.progress())


@contextmanager
def _display(screen: Screen) -> Generator[Callable[[MapProgress], None]]:
    if not screen.is_live:
        yield _lines(screen)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("Answers"), BarColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=screen.notes, transient=True) as bars:
        bar = bars.add_task("", total=None, words="")
        yield lambda now: bars.update(bar, completed=now.settled, total=now.total, words=in_words(now))


def _lines(screen: Screen) -> Callable[[MapProgress], None]:
    """A line each time there is news, at most one in so many seconds."""
    last_words, last_at = "", time.monotonic()

    def show(progress: MapProgress) -> None:
        nonlocal last_words, last_at
        words = in_words(progress)
        if words != last_words and time.monotonic() - last_at >= _LINE_S:
            screen.note(words)
            last_words, last_at = words, time.monotonic()

    return show
