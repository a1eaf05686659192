"""`kagura-tasks map --dry-run`: what would be sent, and what it would cost. Nothing is sent, no file is written."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kagura_tasks.batch_files.output import ids_in, output_exists
from kagura_tasks.batch_files.reader import RowReader
from kagura_tasks.cli.inputs import opened
from kagura_tasks.cli.map.estimate import Estimate, estimates, total
from kagura_tasks.cli.map.report import tell_invalid

if TYPE_CHECKING:
    from rich.table import Table

    from kagura_tasks.cli.map.sending import Wish
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.settings import Settings


def dry_run(settings: Settings, wish: Wish, screen: Screen) -> None:
    """Read all rows, and print what they would cost. Raises RowsInvalid where a map would."""
    options = wish.options(settings)
    answered = _answered(wish)
    with opened(wish.source) as file:
        wish.check_files()
        rows = RowReader(file, wish.source, options, skip_invalid=True, is_answered=answered.__contains__)
        with screen.waiting(f"Counting the tokens of {wish.source}"):
            found = estimates(rows)
    _print(found, rows, screen)
    if not wish.skip_invalid:
        rows.check()
    tell_invalid(rows, screen)


def _answered(wish: Wish) -> Container[str]:
    """The rows that would not be sent."""
    path = Path(wish.output)
    if not (path.is_file() and path.stat().st_size) or wish.existing == "overwrite":
        return ()
    if wish.existing == "refuse":
        raise output_exists(path)
    return ids_in(path, without_failures=wish.existing == "retry")


def _print(found: list[Estimate], rows: RowReader, screen: Screen) -> None:
    in_total = total(found)
    screen.document(
        {
            "rows": rows.given,
            "invalid": rows.invalid,
            "answered_before": rows.answered,
            **{name: in_total[name] for name in ("prompt_tokens", "low_usd", "high_usd")},
            "models": found,
        }
    )
    screen.say(f"rows to send: {rows.given:,}, answered before: {rows.answered:,}, invalid: {rows.invalid:,}")
    if found:
        screen.table(_table([*found, *([in_total] if len(found) > 1 else [])]))
        screen.say("The low price is that of empty answers, the high one of answers as long as they may be;")
        screen.say("what is remembered, or equal to another row, costs less.")


def _table(lines: list[Estimate]) -> Table:
    from rich.table import Column, Table

    right: dict[str, Any] = {"justify": "right", "no_wrap": True}
    columns = [Column("model"), *(Column(name, **right) for name in ("calls", "prompt tokens", "low", "high"))]
    table = Table(*columns, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for line in lines:
        prices = [_price(line[name]) for name in ("low_usd", "high_usd")]
        table.add_row(line["model"], f"{line['calls']:,}", _tokens(line["prompt_tokens"]), *prices)
    return table


def _tokens(count: int | None) -> str:
    return "not counted" if count is None else f"{count:,}"


def _price(usd: float | None) -> str:
    return "unknown price" if usd is None else f"${usd:,.4f}"
