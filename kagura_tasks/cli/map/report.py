"""How a map ended, for people, for machines, and for a shell script."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from kagura_tasks.cli import SOME_FAILED
from kagura_tasks.errors import KaguraTasksError

if TYPE_CHECKING:
    from kagura_tasks.batch_files.output import OutputFile
    from kagura_tasks.batch_files.reader import RowReader
    from kagura_tasks.cli.following import Following
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.groups import MapOutcome, MapProgress


def report(following: Following[MapOutcome] | None, rows: RowReader | None, output: OutputFile, screen: Screen) -> int:
    """Print what is in the output, and what it cost. The exit code."""
    progress = _progress(following)
    map_id = following.group.id if following else None
    screen.document(
        {
            "id": map_id,
            "output": str(output.path),
            "answered": output.answered,
            "failed": output.failed,
            "invalid": rows.invalid if rows else 0,
            "answered_before": rows.answered if rows else 0,
            "cached": progress.cached if progress else 0,
            "prompt_tokens": progress.prompt_tokens if progress else 0,
            "completion_tokens": progress.completion_tokens if progress else 0,
            "cost_usd": progress.cost_usd if progress else 0.0,
        }
    )
    screen.say(f"{output.path}: {output.answered:,} answered, {output.failed:,} failed{_spent(progress)}")
    if output.failed and following:
        screen.note(f"to try the failed rows again: {following.resume} --retry-failed")
    return SOME_FAILED if output.failed else 0


def tell_invalid(rows: RowReader, screen: Screen) -> None:
    """Say which rows were left out, and how many: nobody shall take the answers for all there are."""
    if rows.invalid:
        for problem in rows.problems:
            screen.note(f"  | {problem}")
        screen.note(f"warning: {rows.invalid:,} invalid rows were left out (--skip-invalid)")


def _progress(following: Following[MapOutcome] | None) -> MapProgress | None:
    """What was counted; None where Redis does not tell any more: the answers are in the file, whatever they cost."""
    if following:
        with suppress(KaguraTasksError):
            return following.group.progress()
    return None


def _spent(progress: MapProgress | None) -> str:
    if progress is None:
        return ""
    return f" ({progress.cached:,} cached, {progress.total_tokens:,} tokens, ${progress.cost_usd:,.4f})"
