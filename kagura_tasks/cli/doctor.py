"""`kagura-tasks doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from kagura_tasks.cli.options import AsJson

if TYPE_CHECKING:
    from kagura_tasks.cli.checks.check import Check
    from kagura_tasks.cli.screen import Screen

_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    skip_model: Annotated[
        bool, typer.Option("--skip-model", help="Do not ask LiteLLM about the default model, which takes seconds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings, Redis, workers, keys and the model; each finding says how to mend it.

    Exit code 1 where something is wrong enough to stop work; a warning is not.
    """
    from kagura_tasks.cli.checks import all_checks
    from kagura_tasks.cli.screen import Screen

    screen = Screen(as_json)
    found: list[Check] = []
    for check in all_checks(screen, with_model=not skip_model):
        found.append(check)
        _show(screen, check)
    is_well = all(check.level != "error" for check in found)
    screen.document({"ok": is_well, "checks": [vars(check) for check in found]})
    if not is_well:
        raise typer.Exit(1)


def _show(screen: Screen, check: Check) -> None:
    from rich.text import Text

    line = Text.assemble((f"{check.level:<8}", _COLOURS[check.level]), f" {check.name:<8} {check.message}")
    if check.mend:
        line.append(f": {check.mend}")
    screen.say(line)
