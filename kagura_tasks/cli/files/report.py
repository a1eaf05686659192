"""How a run over files ended, for people, for machines, and for a shell script."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from kagura_tasks.cli import SOME_FAILED
from kagura_tasks.cli.screen import printable

if TYPE_CHECKING:
    from kagura_tasks.cli.files.manifest import Lines
    from kagura_tasks.cli.files.wish import Wish
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.file_results import FilesResult
    from kagura_tasks.groups import MapProgress
    from kagura_tasks.schemas import Completion


def report(wish: Wish, result: FilesResult, lines: Lines, reduced: Callable[[], Completion], screen: Screen) -> int:
    """Say what became of the files and what it cost, and print the answer over all of them. The exit code.

    Raises what kept that answer from being made.
    """
    progress = result.progress()
    screen.note(f"{wish.folder}: {_in_words(lines, progress)}")
    if lines.counts["failed"] and wish.output:
        screen.note(f"to try the failed files again: {wish.retry(wish.output)}")
    answer = None if wish.reduce is None else reduced()
    screen.document(_document(wish, result, lines, progress, answer))
    if answer is not None and not screen.as_json:
        print(printable(answer.text) if sys.stdout.isatty() else answer.text)
    return SOME_FAILED if lines.counts["failed"] else 0


def _in_words(lines: Lines, progress: MapProgress) -> str:
    counts = lines.counts
    cost = f"{progress.total_tokens:,} tokens, ${progress.cost_usd:,.4f}"
    answered = f"{counts['ok'] + counts['cached']:,} answered ({counts['cached']:,} cached)"
    return f"{answered}, {counts['failed']:,} failed, {counts['skipped']:,} skipped; {cost}"


def _document(
    wish: Wish, result: FilesResult, lines: Lines, progress: MapProgress, answer: Completion | None
) -> dict[str, object]:
    """The lines themselves are in it only where they are in no file."""
    names = ("prompt_tokens", "completion_tokens", "cost_usd")
    return {
        "id": result.id,
        "folder": wish.folder,
        "output": wish.output,
        **{status: lines.counts[status] for status in ("ok", "cached", "failed", "skipped")},
        **{name: getattr(progress, name) for name in names},
        "reduced": None if answer is None else answer.model_dump(mode="json"),
        **({} if wish.output else {"files": lines.told}),
    }
