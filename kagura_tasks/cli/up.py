"""`kagura-tasks up`."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from kagura_tasks.cli.options import AsJson, FlowerPort, ProfileName, Workers

if TYPE_CHECKING:
    from kagura_tasks.cli.fleet import Ground
    from kagura_tasks.cli.processes import RunningProgram
    from kagura_tasks.cli.screen import Screen


def up(
    workers: Workers = 2,
    profile: Annotated[ProfileName, typer.Option(help="The kind of workers.")] = ProfileName.all,
    flower_port: FlowerPort = None,
    no_flower: Annotated[bool, typer.Option("--no-flower", help="Start no Flower.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a server, workers and Flower until Ctrl-C, which stops them all.

    With KAGURA_TASKS_REDIS_URL it uses that Redis; without, it starts a server of its own, whose data goes with it.
    A worker that dies is started again.
    """
    from kagura_tasks.cli import fleet
    from kagura_tasks.cli.processes import Programs, ends_like_ctrl_c, patience_s
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.settings import load_settings
    from workers.profiles import PROFILES

    fleet.require_worker()
    screen, settings = Screen(as_json), load_settings()
    patience = patience_s(settings.shutdown_timeout_s)
    with ends_like_ctrl_c(), fleet.running_redis(settings) as ground, Programs(patience) as programs:
        environment = fleet.environment_of(ground.settings)
        started = fleet.start_workers(programs, ground, PROFILES[profile], workers, environment)
        flower = None if no_flower else fleet.start_flower(programs, flower_port, environment, screen.note)
        with screen.waiting(f"Starting {_count(workers, 'worker')}"):
            programs.wait_until_ready()
        _show(screen, ground, started, flower)
        with suppress(KeyboardInterrupt):
            programs.watch(screen.note, also=lambda: _revive(ground, screen))
        screen.note("Stopping: running calls may finish; Ctrl-C again ends them")


def _show(screen: Screen, ground: Ground, workers: list[RunningProgram], flower: str | None) -> None:
    from kagura_tasks.cli.checks.environment import provider_keys
    from kagura_tasks.cli.fleet import export_line

    settings = ground.settings
    address = str(settings.redis_url) if ground.server else settings.redis_url.masked()
    names = [{"name": worker.name, "pid": worker.pid} for worker in workers]
    screen.document({"redis_url": address, "workers": names, "flower_url": flower})
    screen.say(f"Redis    {'a server of our own, in memory' if ground.server else settings.broker.masked()}")
    for worker in workers:
        screen.say(f"Worker   {worker.name}")
    screen.say(f"Flower   {flower or 'not started'}")
    keys = ", ".join(provider_keys()) or "none: hosted models want theirs (OPENAI_API_KEY, ...) set before `up` starts"
    screen.say(f"Keys     {keys}")
    screen.say("\nIn another terminal:\n")
    if ground.server:
        screen.say(f"  {export_line(settings)}")
    screen.say('  kagura-tasks run "Why is the sky blue?"')
    screen.say("\nCtrl-C stops everything.")


def _revive(ground: Ground, screen: Screen) -> None:
    """Start our own server again if it has died. Where a child cannot be looked at without being buried, do nothing."""
    if ground.server is None or not hasattr(os, "waitid"):
        return
    if os.waitid(os.P_PID, ground.server.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        screen.note("the server died, and with it what it held: starting it again")
        ground.server.restart()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
