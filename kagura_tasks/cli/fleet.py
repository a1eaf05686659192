"""What `up` and `demo` start: a server, workers and Flower."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from kagura_tasks.cli.preflight import require_redis
from kagura_tasks.cli.processes import Program, Programs, RunningProgram
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.settings import ENV_PREFIX, Settings
from workers.profiles import ENVIRONMENT, Profile

LOOPBACK: Final = "127.0.0.1"

_FLOWERS_USUAL_PORT: Final = 5555
_URLS: Final = {"redis_url", "broker_url", "result_url", "cache_url"}

# Celery says it once a start, in a log that is shown when something else went wrong.
_AS_ROOT: Final = "ignore:You're running the worker with superuser privileges"


@dataclass(frozen=True)
class Ground:
    """The Redis that everything stands on.

    Attributes:
        settings: They name it.
        server: Our own; None where the user's settings name one.
    """

    settings: Settings
    server: EmbeddedRedis | None = None


@contextmanager
def running_redis(settings: Settings) -> Generator[Ground]:
    """The settings' Redis, which answers, or a server of our own where they name none."""
    if settings.model_fields_set & _URLS:
        require_redis(settings.broker, settings.results, settings.cache)
        yield Ground(settings)
        return
    with EmbeddedRedis() as server:
        yield Ground(Settings(**{**settings.model_dump(), "redis_url": server.url}), server)


def environment_of(settings: Settings) -> dict[str, str]:
    """What the programs of these settings inherit."""
    quiet = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), _AS_ROOT]))
    ours = {f"{ENV_PREFIX}REDIS_URL": str(settings.redis_url), "PYTHONWARNINGS": quiet, "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **ENVIRONMENT, **ours}


def export_line(settings: Settings) -> str:
    """What another terminal needs to find the same Redis."""
    return f"export {ENV_PREFIX}REDIS_URL={shlex.quote(str(settings.redis_url))}"


def start_workers(
    programs: Programs, ground: Ground, profile: Profile, count: int, environment: dict[str, str]
) -> list[RunningProgram]:
    """Start so many workers of this kind. They need LiteLLM: see `require_worker`."""
    # On a Redis that others use, too, a name must not be anybody else's.
    own = "" if ground.server else f"-{os.getpid()}"
    names = [f"worker-{number}{own}@{socket.gethostname()}" for number in range(1, count + 1)]
    concurrency = ground.settings.concurrency
    return [programs.start(worker_program(name, profile, concurrency, environment)) for name in names]


def worker_program(name: str, profile: Profile, concurrency: int, environment: dict[str, str]) -> Program:
    """A worker process of this kind."""
    command = [sys.executable, "-m", "celery", "-A", "workers.main", "worker", f"--hostname={name}", "--loglevel=INFO"]
    # Gossip and mingle are for large fleets, and cost each start a second.
    kind = [*profile.celery_arguments(concurrency), "--without-gossip", "--without-mingle"]
    return Program(name, [*command, *kind], environment, is_ready=lambda output: f"{name} ready." in output)


def start_flower(
    programs: Programs, wanted_port: int | None, environment: dict[str, str], say: Callable[[str], None]
) -> str | None:
    """Start Flower; its address. None, and a line that says so, where it is not installed."""
    if not is_installed("flower"):
        say("Flower is not installed: pip install 'kagura-tasks[flower]'")
        return None
    port = flower_port(wanted_port)
    _ = programs.start(flower_program(port, environment))
    return flower_url(port)


def flower_program(port: int, environment: dict[str, str]) -> Program:
    """Flower, on loopback only."""
    command = [sys.executable, "-m", "kagura_tasks.cli.dashboard.program", f"--address={LOOPBACK}", f"--port={port}"]
    # Its API would answer every page that a browser has open.
    private = {name: value for name, value in environment.items() if name != "FLOWER_UNAUTHENTICATED_API"}
    return Program("Flower", command, private, is_ready=lambda _: _answers(flower_url(port)))


def flower_url(port: int) -> str:
    """Where Flower is."""
    return f"http://{LOOPBACK}:{port}"


def flower_port(wanted: int | None) -> int:
    """A port for Flower: the wanted one, or else its usual one, or else any. Raises ConfigurationError if taken."""
    if wanted is None:
        return _free_port(_FLOWERS_USUAL_PORT) or _free_port(0)
    if not _free_port(wanted):
        raise ConfigurationError(f"port {wanted} is taken: name another one with --flower-port")
    return wanted


def is_installed(package: str) -> bool:
    """The package could be imported. It is not."""
    return find_spec(package) is not None


def require_worker() -> None:
    """Raise ConfigurationError where this Python lacks what a worker needs."""
    if not is_installed("litellm"):
        raise ConfigurationError("a worker needs LiteLLM: pip install 'kagura-tasks[worker]'")


def in_folder(program: Program, folder: Path) -> Program:
    """The same program, started elsewhere: where nothing of the user's can be imported by chance."""
    return replace(program, folder=folder)


def _free_port(number: int) -> int:
    """The port, or a free one for 0; 0 if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        # No proxy: it is on loopback.
        with build_opener(ProxyHandler({})).open(f"{url}/healthcheck", timeout=2) as answer:
            return answer.status == 200
    except (URLError, TimeoutError, ConnectionError):
        return False
