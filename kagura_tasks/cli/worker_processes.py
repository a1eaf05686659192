"""The processes behind `kagura-tasks worker`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final, NoReturn

from kagura_tasks.cli.processes import Program, Programs, ends_like_ctrl_c, patience_s
from kagura_tasks.cli.screen import Screen
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.settings import Settings
from workers.profiles import ENVIRONMENT

_START: Final = [sys.executable, "-m", "celery", "-A", "workers.main", "worker", "--loglevel=INFO"]

#: What makes no sense several times over.
_FOR_ONE: Final = {"-B", "--beat", "-D", "--detach"}


def become(arguments: Sequence[str]) -> NoReturn:
    """Turn this process into a worker."""
    os.execve(sys.executable, [*_START, *arguments], {**os.environ, **ENVIRONMENT})  # noqa: S606 (no shell is wanted)


def supervise(count: int, arguments: Sequence[str], settings: Settings) -> None:
    """Run so many workers until SIGTERM or Ctrl-C, which stops them all. One that dies is started again.

    None is forked from a process that has imported LiteLLM, though they could share its memory then: libraries of
    providers start threads when they are imported, and a fork copies their locks and not them.
    """
    if unfit := _FOR_ONE & set(arguments):
        raise ConfigurationError(f"{min(unfit)} is for one worker: leave --processes out")
    screen = Screen()
    with ends_like_ctrl_c(), Programs(patience_s(settings.shutdown_timeout_s)) as programs, suppress(KeyboardInterrupt):
        for number in range(1, count + 1):
            programs.start(_program(number, arguments))
        programs.watch(screen.note)


def _program(number: int, arguments: Sequence[str]) -> Program:
    name = numbered(hostname_in(arguments), number)
    command = [*_START, *arguments, f"--hostname={name}"]
    # Nobody waits for it to be ready: its log level may hide that.
    return Program(f"worker {number}", command, {**os.environ, **ENVIRONMENT}, lambda _: True, has_log=False)


def hostname_in(arguments: Sequence[str]) -> str:
    """The worker's name among the arguments of `celery worker`, as Celery would read them; "" where there is none."""
    found = ""
    for argument, following in pairwise([*arguments, ""]):
        if argument in ("-n", "--hostname"):
            found = following
        elif argument.startswith("--hostname="):
            found = argument.partition("=")[2]
        elif argument.startswith("-n"):
            found = argument[2:]
    return found


def numbered(hostname: str, number: int) -> str:
    """The name of one of several workers: night-1@%h for night@%h. Celery fills in what is left out."""
    name, at, host = hostname.rpartition("@")
    return f"{name or 'celery'}-{number}@{host if at or host else '%h'}"
