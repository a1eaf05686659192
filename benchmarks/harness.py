"""What every benchmark stands on: a Redis of its own, a scripted provider, real workers. All end with the run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

import psutil
import redis
from celery import Celery

from benchmarks.measure import Usage, cpu_seconds, family
from benchmarks.queues.bodies import VARIABLE as BODIES_VARIABLE
from benchmarks.queues.bodies import Bodies
from kagura_tasks.connections import celery_url
from kagura_tasks.embedded_redis import EmbeddedRedis, tied_to_this_process
from kagura_tasks.settings import ENV_PREFIX, RedisUrl
from kagura_tasks.worker.coroutine_tasks import POOL
from tests.support.llm import StubServer, server_process
from tests.support.workers import NOT_INHERITED, started

ROOT: Final = Path(__file__).parents[1]

#: LiteLLM is imported before a worker is ready: five seconds of CPU each, and up to eight of them start at once.
_READY_TIMEOUT_S: Final = 180.0


class BenchmarkError(Exception):
    """A run that proves nothing: something failed, or the books do not balance."""


Variables = tuple[tuple[str, str], ...]


class Startable(Protocol):
    """How a worker of any kind is started. Equal ones are one worker to a stage.

    Attributes:
        database: The Redis database of its queue and its results: no contender sees another's.
        concurrency: Tasks at a time.
        environment: What it is told in variables, beside what all are told.
    """

    @property
    def database(self) -> int: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def environment(self) -> Variables: ...

    def command(self, hostname: str) -> list[str]:
        """What one would type; the name is for those that can tell theirs."""
        ...


@dataclass(frozen=True)
class ProgramSpec:
    """How a worker that is not Celery's is started: `python -m <module> <arguments>`. The rest is as in WorkerSpec."""

    module: str
    arguments: tuple[str, ...]
    concurrency: int
    database: int
    environment: Variables = ()

    def command(self, hostname: str) -> list[str]:
        """What one would type."""
        return [sys.executable, "-m", self.module, *self.arguments]


@dataclass(frozen=True)
class WorkerSpec:
    """How a worker is started: `celery -A <app> worker -P <pool> -c <concurrency>`, with Celery's own defaults.

    Attributes:
        app: What it loads.
        pool: Celery's pool; "asyncio" is ours.
        concurrency: Tasks at a time.
        database: The Redis database of its queue and its results: no contender sees another's.
        queues: What it consumes.
        environment: Settings of this kind alone.
    """

    app: str
    pool: str
    concurrency: int
    database: int
    queues: str = "celery"
    environment: Variables = ()

    def command(self, hostname: str) -> list[str]:
        """What one would type. Without the two start-up conversations between workers, for all contenders alike."""
        start = [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", hostname]
        pool = "custom" if self.pool == "asyncio" else self.pool
        what = ["-Q", self.queues, "-P", pool, "-c", str(self.concurrency)]
        return [*start, *what, "--without-gossip", "--without-mingle"]


class WorkerProcess:
    """One worker (and its children, where its pool has any)."""

    def __init__(self, spec: Startable, hostname: str, environment: dict[str, str], log: Path) -> None:
        """Start it. It is killed with this process."""
        self.hostname = hostname
        self._log = log
        self._process = started(spec.command(hostname), environment, log)

    def usage(self) -> Usage:
        """Memory now, and CPU so far."""
        return Usage.of(self._process.pid)

    def cpu_s(self) -> float:
        """CPU so far, its children's included; unlike `usage`, this costs the machine next to nothing."""
        return cpu_seconds(self._process.pid)

    def check(self) -> None:
        """Raise BenchmarkError where it has ended."""
        if self._process.poll() is not None:
            raise BenchmarkError(f"{self.hostname} ended with code {self._process.returncode}:\n{self.tail()}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Frozen while the block runs: what is enqueued meanwhile waits, and all of it is there when it wakes up."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def pause(self) -> None:
        """Freeze it and its children."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # Not its group: what a supervisor starts has one of its own.
        for member in self._family():
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return family(self._process.pid)
        return []  # it has ended: `check` says so

    def stop(self) -> None:
        """End it and its children."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text("utf-8", errors="replace").splitlines()[-lines:])


class Stage:
    """A Redis and a provider of one benchmark's own, and the workers that it starts."""

    def __init__(self, server: EmbeddedRedis, provider: StubServer, folder: Path) -> None:
        """See `stage`, which makes one."""
        self._server = server
        self.provider = provider
        self._folder = folder
        self._workers: dict[Startable, list[WorkerProcess]] = {}

    def url(self, database: int) -> RedisUrl:
        """A database of the Redis."""
        return RedisUrl(re.sub(r"\d+$", str(database), self._server.url))

    def redis(self, database: int) -> redis.Redis:
        """A plain client on it, as redis-py makes it."""
        return redis.Redis.from_url(self.url(database))

    def set_latency(self, seconds: float) -> None:
        """From now on the provider takes so long for an answer, and its ledger is empty."""
        self.provider.reset()
        self.provider.script(delay_s=seconds)

    def start(self, *specs: WorkerSpec) -> list[WorkerProcess]:
        """A worker of each kind; see `start_several`."""
        return [worker for (worker,) in self.start_several(1, *specs)]

    def start_several(self, count: int, *specs: WorkerSpec) -> list[list[WorkerProcess]]:
        """So many workers of each kind, all started at once; returned when each answers a ping.

        Those that this stage has already are not started again.
        """
        for spec in specs:
            running = self._workers.setdefault(spec, [])
            running += [self._launch(spec) for _ in range(count - len(running))]
        chosen = [self._workers[spec][:count] for spec in specs]
        for spec, workers in zip(specs, chosen, strict=True):
            for worker in workers:
                self._wait_until_ready(spec, worker)
        return chosen

    def launch(self, spec: Startable) -> WorkerProcess:
        """A worker of this kind, which may not be ready yet; the one that this stage has, if it has one."""
        running = self._workers.setdefault(spec, [])
        if not running:
            running.append(self._launch(spec))
        return running[0]

    def bodies(self, database: int) -> Bodies:
        """What the job bodies tell of the worker that serves this database."""
        return Bodies.create(self._bodies_file(database))

    @contextmanager
    def program(self, module: str) -> Iterator[subprocess.Popen[str]]:
        """A program that calls the provider itself, with pipes to talk to it; it ends with the block."""
        command = tied_to_this_process([sys.executable, "-m", module])
        environment = {**os.environ, **self._provider_variables()}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def stop(self) -> None:
        """End the workers."""
        for worker in [worker for workers in self._workers.values() for worker in workers]:
            worker.stop()

    def _bodies_file(self, database: int) -> Path:
        return self._folder / f"bodies-{database}"

    def _launch(self, spec: Startable) -> WorkerProcess:
        hostname = f"bench-{uuid4().hex[:8]}@localhost"
        _ = self.bodies(spec.database)  # the worker shares the file, so it has to be there
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
        ours = {
            f"{ENV_PREFIX}REDIS_URL": str(self.url(spec.database)),
            "BENCHMARKS_CELERY_URL": celery_url(self.url(spec.database)),
            "BENCHMARKS_REDIS_URL": str(self.url(spec.database)),
            "BENCHMARKS_CONCURRENCY": str(spec.concurrency),
            "CELERY_CUSTOM_WORKER_POOL": POOL,
            BODIES_VARIABLE: str(self._bodies_file(spec.database)),
            **self._provider_variables(),
        }
        return WorkerProcess(
            spec, hostname, {**inherited, **ours, **dict(spec.environment)}, self._folder / f"{hostname}.log"
        )

    def _provider_variables(self) -> dict[str, str]:
        return {
            "OPENAI_API_KEY": "benchmark",
            "OPENAI_API_BASE": self.provider.base_url,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
        }

    def _wait_until_ready(self, spec: WorkerSpec, worker: WorkerProcess) -> None:
        with Celery(broker=celery_url(self.url(spec.database)), set_as_current=False) as app:

            def answers() -> bool:
                worker.check()
                return bool(app.control.ping([worker.hostname], timeout=0.5, limit=1))

            wait_until(answers, _READY_TIMEOUT_S, f"{worker.hostname} to be ready")


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage, taken down at the end, however it comes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kagura-bench-")))
        server = stack.enter_context(EmbeddedRedis())
        provider = StubServer(stack.enter_context(server_process("provider.py")))
        made = Stage(server, provider, folder)
        stack.callback(made.stop)
        yield made


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, poll_s: float = 0.02) -> None:
    """Return when the condition is true. Raises BenchmarkError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(poll_s)
