"""Real worker processes: `celery -A workers.main worker`, as anybody would start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from kagura_tasks.embedded_redis import tied_to_this_process
from kagura_tasks.settings import ENV_PREFIX
from kagura_tasks.worker.coroutine_tasks import POOL
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

    def command(self, hostname: str) -> list[str]:
        """What one would type."""
        start = [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", hostname, "-l", "INFO"]
        pool = "custom" if self.pool == "asyncio" else self.pool
        what = ["-Q", self.queues, "-P", pool, "-c", str(self.concurrency)]
        return [*start, *what, "--without-gossip", "--without-mingle", *self.arguments]


class Worker:
    """One worker process and its log."""

    def __init__(self, redis_url: str, api_base: str, folder: Path, options: WorkerOptions) -> None:
        """Start it on this Redis, with this provider behind `openai/...` and its log in the folder; see `ready`."""
        self.hostname = f"test-{uuid4().hex[:8]}@localhost"
        self._log = folder / f"{self.hostname}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
        ours = {
            f"{ENV_PREFIX}REDIS_URL": redis_url,
            "OPENAI_API_KEY": "test-key",
            "OPENAI_API_BASE": api_base,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PYTHONUNBUFFERED": "1",
            "CELERY_CUSTOM_WORKER_POOL": POOL,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                tied_to_this_process(options.command(self.hostname)),
                cwd=ROOT,
                env={**inherited, **ours, **options.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

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
