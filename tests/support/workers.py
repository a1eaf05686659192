"""Real worker processes: `celery -A workers.main worker`, as anybody would start them; most of them preloaded."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final
from uuid import uuid4

from kagura_tasks.embedded_redis import tied_to_this_process
from kagura_tasks.settings import ENV_PREFIX
from kagura_tasks.worker.coroutine_tasks import POOL
from tests.support.preloaded import AdoptedProcess, Order, Preloaded
from tests.support.wait import until

ROOT: Final = Path(__file__).parents[2]

#: LiteLLM is imported before a worker is ready: seconds of CPU, and several workers start at once on a small machine.
_READY_TIMEOUT_S: Final = 90.0
_STOP_TIMEOUT_S: Final = 60.0

#: Variables of whoever runs the tests that must not reach a worker: settings, real keys, proxies.
NOT_INHERITED: Final = (
    *(ENV_PREFIX, "CELERY_", "LITELLM_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "MISTRAL_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
)

#: What Python, Celery and LiteLLM read when they are imported, or before.
_AT_IMPORT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONUNBUFFERED": "1",
    "CELERY_CUSTOM_WORKER_POOL": POOL,
}

#: What workers import, which takes seconds of CPU. Nothing of this project that reads the environment meanwhile, and
#: not `celery.__main__`, which has yet to run.
_IMPORTED: Final = (
    *("celery.bin.celery", "celery.apps.worker", "celery.worker.consumer", "celery.worker.autoscale"),
    *("celery.concurrency.thread", "celery.concurrency.asynpool", "celery.concurrency.prefork"),
    *("litellm", "openai.resources.chat.completions", "httpcore", "aiohttp", "uvloop", "structlog"),
    *("kagura_tasks.worker.install", "kagura_tasks.worker.consumer", "kagura_tasks.worker.pool"),
    *("kagura_tasks.worker.transport", "kagura_tasks.worker.task_log", "kagura_tasks.providers.direct"),
)

#: Pools that patch what is imported after them.
_PATCHING: Final = ("gevent", "eventlet")

#: Variables that no import of another's package reads. LiteLLM alone reads hundreds.
_READ_LATER: Final = (
    *(ENV_PREFIX, "CHAOS_", "POOL_", "TRACES", "PYTHONPATH", "OPENAI_API_KEY", "OPENAI_API_BASE"),
    *("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"),
)


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker is started.

    Attributes:
        pool: Celery's pool; "asyncio" is ours, which Celery knows as a custom one.
        concurrency: Tasks in flight.
        queues: What it consumes.
        app: What it loads.
        environment: Further variables; an empty one is as good as none.
        arguments: Further arguments of `celery worker`.
    """

    pool: str = "threads"
    concurrency: int = 8
    queues: str = "llm,llm.batch"
    app: str = "workers.main"
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def celery_arguments(self, hostname: str) -> list[str]:
        """What one would type after `celery`."""
        start = ["-A", self.app, "worker", "-n", hostname, "-l", "INFO"]
        pool = "custom" if self.pool == "asyncio" else self.pool
        what = ["-Q", self.queues, "-P", pool, "-c", str(self.concurrency)]
        return [*start, *what, "--without-gossip", "--without-mingle", *self.arguments]

    @property
    def can_be_preloaded(self) -> bool:
        """Whether its imports come out as those of all other workers."""
        alike = all(name.startswith(_READ_LATER) for name in self.environment)
        return sys.platform == "linux" and self.pool not in _PATCHING and alike


class Worker:
    """One worker process and its log."""

    def __init__(self, redis_url: str, api_base: str, folder: Path, options: WorkerOptions) -> None:
        """Start it on this Redis, with this provider behind `openai/...` and its log in the folder; see `ready`."""
        self.hostname = f"test-{uuid4().hex[:8]}@localhost"
        self._log = folder / f"{self.hostname}.log"
        ours = {f"{ENV_PREFIX}REDIS_URL": redis_url, "OPENAI_API_KEY": "test-key", "OPENAI_API_BASE": api_base}
        # A pool that is killed leaves the folders of its children's shared memory.
        temporary = {"TMPDIR": str(folder)}
        environment = {**_inherited(), **_AT_IMPORT, **temporary, **ours, **options.environment}
        start = _fork if options.can_be_preloaded else _execute
        self._process = start(options.celery_arguments(self.hostname), environment, self._log)

    @property
    def pid(self) -> int:
        """The worker's process id; under prefork, the parent's."""
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it wrote."""
        return self._log.read_text("utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def ready(self) -> Worker:
        """Return when it takes tasks. Fails the test, with the log, where it ends before."""

        def is_ready() -> bool:
            assert self.is_running, f"the worker ended with code {self._process.returncode}:\n{self.tail()}"
            return f"{self.hostname} ready." in self.log

        until(is_ready, _READY_TIMEOUT_S, "a ready worker")
        return self

    def terminate(self) -> int:
        """A warm shutdown: what runs is finished first. The exit code."""
        if self.is_running:
            self._process.terminate()
        return self._process.wait(_STOP_TIMEOUT_S)

    def kill9(self) -> None:
        """End it and its children at once, as a machine that loses power does."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 60) -> str:
        """The log's last lines."""
        return "\n".join(self.log.splitlines()[-lines:])


class Fleet:
    """Starts workers for one test, all at once, and ends them after it."""

    def __init__(self, redis_url: str, api_base: str, folder: Path) -> None:
        """Take what all its workers share."""
        self.redis_url = redis_url
        self._api_base = api_base
        self._folder = folder
        self.workers: list[Worker] = []

    def __call__(self, count: int = 1, options: WorkerOptions | None = None, api_base: str = "") -> list[Worker]:
        """That many further workers, ready. `api_base`: another provider than the fleet's."""
        options = options or WorkerOptions()
        where = (self.redis_url, api_base or self._api_base, self._folder)
        started = [Worker(*where, options) for _ in range(count)]
        self.workers += started
        return [worker.ready() for worker in started]

    def stop(self) -> None:
        """End them all."""
        for worker in self.workers:
            worker.kill9()


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}


def started(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A program in a session of its own, whose output is added to the log. It is killed with this process."""
    with log.open("ab") as output:
        return subprocess.Popen(
            tied_to_this_process(command),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _execute(arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    return started([sys.executable, "-m", "celery", *arguments], environment, log)


def _fork(arguments: list[str], environment: dict[str, str], log: Path) -> AdoptedProcess:
    return _preloaded().start(Order("celery", arguments, environment, str(log)))


@cache
def _preloaded() -> Preloaded:
    """One for all workers that are started from here."""
    # As kagura_tasks.providers.litellm has it, which is not imported there.
    preloaded = Preloaded(ROOT, {**_inherited(), **_AT_IMPORT, "LITELLM_MODE": "PRODUCTION"}, _IMPORTED)
    atexit.register(preloaded.close)
    return preloaded
