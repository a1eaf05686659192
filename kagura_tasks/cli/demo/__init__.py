"""`kagura-tasks demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from kagura_tasks.cli.options import AsJson, FlowerPort, Workers


def demo(
    model: Annotated[
        str | None,
        typer.Option(
            show_default="a small local one", help="Any model by LiteLLM's name; its key comes from the environment."
        ),
    ] = None,
    scripted: Annotated[
        bool, typer.Option("--scripted", help="No model: canned answers, as where no local model is installed.")
    ] = False,
    workers: Workers = 2,
    flower_port: FlowerPort = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running afterwards, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch real prompts go to workers and a model and back, and equal prompts come from the cache.

    Starts a server (unless KAGURA_TASKS_REDIS_URL names one), workers, a model and Flower, and stops them at the end.
    """
    from kagura_tasks.cli.demo.play import Choice, play

    if model and scripted:
        raise typer.BadParameter("either a model or --scripted", param_hint="--model")
    play(Choice(model, scripted, workers, flower_port), keep, as_json)
