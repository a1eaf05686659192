"""`kagura-tasks tail`."""

from __future__ import annotations

from typing import Annotated

import typer

from kagura_tasks.cli.options import AsJson


def tail(
    task_id: Annotated[str, typer.Argument(help="The task's id.")],
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Read on behind the event of this number.")] = 0,
    tenant: Annotated[str | None, typer.Option(show_default="KAGURA_TASKS_TENANT", help="Whose data this is.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, show_default="KAGURA_TASKS_WAIT_TIMEOUT_S", help="Seconds of silence to wait."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a task's text while it is written; --json prints one event a line. Ctrl-C leaves, and cancels nothing."""
    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.cli.streamed import show
    from kagura_tasks.client import LLMClient
    from kagura_tasks.settings import load_settings

    settings = load_settings().override(wait_timeout_s=timeout)
    stream = LLMClient(settings).resume(task_id, after, tenant=tenant)
    require_redis(settings.broker, settings.results)
    screen = Screen(as_json)
    try:
        show(stream, screen)
    except KeyboardInterrupt:
        screen.note(f"to read on: kagura-tasks tail {task_id} --after {stream.cursor}")
        raise
