"""Asking before something is gone for good."""

from __future__ import annotations

import sys

import typer

from kagura_tasks.errors import InvalidRequest


def confirm(question: str) -> None:
    """Return if the user agrees; end the command otherwise."""
    if not sys.stdin.isatty():
        raise InvalidRequest("nobody is here to be asked: give --yes")
    typer.confirm(question, abort=True, err=True)
