"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class ProfileName(StrEnum):
    """The names of `workers.profiles.PROFILES`, which is too slow to import for a help text."""

    interactive = "interactive"
    batch = "batch"
    all = "all"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
FlowerPort = Annotated[
    int | None,
    typer.Option(min=1, max=65535, show_default="5555, or a free one", help="Flower's port on 127.0.0.1."),
]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
