"""Options that several commands have."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from kagura_tasks.mapping import OnError

#: Words of LLMClient.request that no model has.
_OF_OURS: Final = {"prompt", "model", "use_cache", "cache_ttl", "tags", "tenant", "priority", "timeout_s"}


class ProfileName(StrEnum):
    """The names of `workers.profiles.PROFILES`, which is too slow to import for a help text."""

    interactive = "interactive"
    batch = "batch"
    routing = "routing"
    files = "files"
    all = "all"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
Budget = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="USD",
        help="What all calls may cost together. None is made that may cost more than what is left.",
    ),
]
FlowerPort = Annotated[
    int | None,
    typer.Option(min=1, max=65535, show_default="5555, or a free one", help="Flower's port on 127.0.0.1."),
]
MaxInFlight = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10_000,
        show_default="KAGURA_TASKS_MAP_MAX_IN_FLIGHT",
        help="How many are in queues and with workers at a time.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Call the model, whatever is remembered.")]
OnFailure = Annotated[
    str,
    typer.Option(
        "--on-error",
        metavar="WHAT",
        help="What a failed one does: collect (nothing to the others), fail (no further one is started), or the part "
        "of all that may fail, such as 0.05.",
    ),
]
Param = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=JSON", help="A parameter of all calls, such as temperature=0.2. Repeatable."),
]
Tenant = Annotated[str | None, typer.Option(show_default="KAGURA_TASKS_TENANT", help="Whose data this is.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def parameters(given: list[str] | None) -> dict[str, object]:
    """What --param says, each time it was given. Wrong usage where one is no NAME=JSON."""
    return dict(_parameter(text) for text in given or ())


def on_error_of(typed: str) -> OnError:
    """What --on-error says. Wrong usage where it says nothing that is known."""
    if typed == "collect" or typed == "fail":
        return typed
    try:
        return float(typed)
    except ValueError:
        raise typer.BadParameter(f"{typed!r} is none of collect, fail, 0.05", param_hint="--on-error") from None


def _parameter(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not NAME=JSON", param_hint="--param")
    if name in _OF_OURS:
        raise typer.BadParameter(f"{name} is no parameter of a model's", param_hint="--param")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        hint = f"""the value of {name} is no JSON (a text wants quotes: --param '{name}="..."')"""
        raise typer.BadParameter(hint, param_hint="--param") from None
