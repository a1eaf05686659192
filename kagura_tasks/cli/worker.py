"""`kagura-tasks worker`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from kagura_tasks.cli.options import ProfileName


def worker(
    context: typer.Context,
    profile: Annotated[ProfileName, typer.Option(help="The kind of worker: its queues and its pool.")] = (
        ProfileName.all
    ),
    concurrency: Annotated[
        int | None, typer.Option(min=1, show_default="KAGURA_TASKS_CONCURRENCY", help="Calls in flight at once.")
    ] = None,
    queues: Annotated[
        str | None, typer.Option(metavar="NAME,...", show_default="the profile's", help="Queues to serve.")
    ] = None,
) -> None:
    """Run one worker: `celery -A workers.main worker`, with a profile's arguments.

    Whatever else is given goes to `celery worker` as it is, such as --hostname=night@%h or --loglevel=DEBUG.
    """
    from kagura_tasks.cli.fleet import require_worker
    from kagura_tasks.settings import load_settings
    from workers.profiles import PROFILES

    require_worker()
    settings = load_settings()
    arguments = PROFILES[profile].celery_arguments(concurrency or settings.concurrency)
    if concurrency:
        arguments.append(f"--concurrency={concurrency}")
    if queues:
        arguments.append(f"--queues={queues}")
    start = [sys.executable, "-m", "celery", "-A", "workers.main", "worker", "--loglevel=INFO"]
    # Of two equal options Celery takes the last one.
    os.execv(sys.executable, [*start, *arguments, *context.args])  # noqa: S606 (no shell is wanted)
