"""`kagura-tasks version`."""

from __future__ import annotations

from kagura_tasks.cli.options import AsJson


def version(as_json: AsJson = False) -> None:
    """Print the version."""
    from kagura_tasks import __version__
    from kagura_tasks.cli.screen import Screen

    screen = Screen(as_json)
    screen.document({"version": __version__})
    screen.say(__version__)
