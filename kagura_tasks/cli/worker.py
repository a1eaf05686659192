"""`kagura-tasks worker`."""

from __future__ import annotations

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
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Worker processes, for more cores; one that dies is replaced.")
    ] = 1,
) -> None:
    """Run a worker: `celery -A workers.main worker`, with a profile's arguments.

    Whatever else is given goes to `celery worker` as it is, such as --hostname=night@%h or --loglevel=DEBUG. With
    --processes=2 there are two of them, night-1@... and night-2@..., until SIGTERM or Ctrl-C, which stops both.
    """
    from kagura_tasks.cli import worker_processes
    from kagura_tasks.cli.checks.environment import unknown_variables
    from kagura_tasks.cli.fleet import require_worker
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.settings import load_settings
    from workers.profiles import PROFILES

    require_worker()
    settings = load_settings()
    for check in unknown_variables():
        Screen().note(f"warning: {check.message}: {check.mend}")
    arguments = PROFILES[profile].celery_arguments(concurrency or settings.concurrency)
    if concurrency:
        arguments.append(f"--concurrency={concurrency}")
    if queues:
        arguments.append(f"--queues={queues}")
    # Of two equal options Celery takes the last one.
    arguments += context.args
    if processes == 1:
        worker_processes.become(arguments)
    worker_processes.supervise(processes, arguments, settings)
