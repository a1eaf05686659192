"""Who is compared, and each one's worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from benchmarks.contenders import plain_app, version_of
from benchmarks.harness import ProgramSpec, Stage, Startable, WorkerSpec, wait_until
from benchmarks.queues import peers
from benchmarks.queues.clients import CeleryClient, QueueClient
from kagura_tasks import Settings
from kagura_tasks.app import create_app
from kagura_tasks.queues import LLM

#: Jobs at a time: of everybody but dramatiq, whose jobs are threads of which it starts all.
CONCURRENCY: Final = 256
_DRAMATIQ_THREADS: Final = 64

_READY_TIMEOUT_S: Final = 180.0
_JOBS_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.005


@dataclass(frozen=True)
class Contender:
    """A queue, its worker, and its caller's side.

    Attributes:
        label: Its row in the table.
        worker: How its worker is started.
        open: Makes the caller's side.
        packages: What has to be installed for it.
    """

    label: str
    worker: Startable
    open: Callable[[Stage, int], QueueClient]
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return [package for package in self.packages if version_of(package) is None]


STOCK: Final = Contender(
    f"plain Celery, threads c{CONCURRENCY}",
    WorkerSpec("benchmarks.queues.apps.stock_celery", "threads", CONCURRENCY, 6),
    lambda stage, database: CeleryClient(stage, database, plain_app(stage, database)),
)
OURS: Final = Contender(
    f"kagura_tasks, threads c{CONCURRENCY}",
    WorkerSpec("benchmarks.queues.apps.ours", "threads", CONCURRENCY, 7, queues=LLM),
    lambda stage, database: CeleryClient(stage, database, create_app(Settings(redis_url=stage.url(database)))),
)
OURS_ASYNCIO: Final = Contender(
    f"kagura_tasks, asyncio c{CONCURRENCY}",
    WorkerSpec("benchmarks.queues.apps.ours_asyncio", "asyncio", CONCURRENCY, 13, queues=LLM),
    OURS.open,
)


def _taskiq_worker(broker: str, database: int) -> ProgramSpec:
    what = ["worker", f"benchmarks.queues.apps.taskiq_app:{broker}", "--workers", "1", "--log-level", "WARNING"]
    return ProgramSpec("taskiq", (*what, "--max-async-tasks", str(CONCURRENCY)), CONCURRENCY, database)


TASKIQ_STREAM: Final = Contender(
    f"taskiq, stream c{CONCURRENCY}",
    _taskiq_worker("stream", 8),
    peers.TaskiqStreamClient,
    ("taskiq", "taskiq-redis"),
)
TASKIQ_LIST: Final = Contender(
    f"taskiq, list c{CONCURRENCY}",
    _taskiq_worker("one_list", 9),
    peers.TaskiqClient,
    ("taskiq", "taskiq-redis"),
)
_SAQ: Final = Contender(
    f"SAQ c{CONCURRENCY}",
    ProgramSpec("saq", ("benchmarks.queues.apps.saq_app.settings",), CONCURRENCY, 10),
    peers.SaqClient,
    ("saq",),
)
_ARQ: Final = Contender(
    f"arq c{CONCURRENCY}",
    ProgramSpec("benchmarks.queues.apps.arq_app", (), CONCURRENCY, 11),
    peers.ArqClient,
    ("arq",),
)
_DRAMATIQ: Final = Contender(
    f"dramatiq, {_DRAMATIQ_THREADS} threads",
    ProgramSpec(
        "dramatiq",
        ("benchmarks.queues.apps.dramatiq_app", "--processes", "1", "--threads", str(_DRAMATIQ_THREADS)),
        _DRAMATIQ_THREADS,
        12,
    ),
    peers.DramatiqClient,
    ("dramatiq",),
)

ALL: Final = (STOCK, OURS, OURS_ASYNCIO, TASKIQ_STREAM, TASKIQ_LIST, _SAQ, _ARQ, _DRAMATIQ)


@lru_cache
def installed() -> tuple[Contender, ...]:
    """Those that can run here; the first time a line says who cannot."""
    absent = [contender for contender in ALL if contender.missing()]
    if absent:
        packages = sorted({package for contender in absent for package in contender.missing()})
        print(f"left out, since not installed: {', '.join(packages)} (`make bench` installs them)", file=sys.stderr)
    return tuple(contender for contender in ALL if contender not in absent)


def versions(contenders: Sequence[Contender]) -> str:
    """The note that says which releases of the other queues ran, and which did not."""
    packages = {package: version_of(package) for contender in ALL for package in contender.packages}
    ran = [f"{name} {packages[name]}" for contender in contenders for name in contender.packages]
    left_out = [name for name, found in packages.items() if found is None]
    ran_text = f"The others: {', '.join(dict.fromkeys(ran))}." if ran else ""
    return " ".join(filter(None, [ran_text, f"Not installed: {', '.join(left_out)}." if left_out else ""]))


class Lane:
    """A contender with its worker, which is frozen except while it is measured, and its caller's side."""

    def __init__(self, stage: Stage, contender: Contender) -> None:
        """Start the worker, if it does not run yet."""
        self.contender = contender
        self.client = contender.open(stage, contender.worker.database)
        self.worker = stage.launch(contender.worker)
        self.bodies = stage.bodies(contender.worker.database)

    def warm_up(self, jobs: int) -> None:
        """Return, with the worker frozen, when it has done so many."""
        with self.awake():
            self.wait_for(self.client.enqueue(jobs), _READY_TIMEOUT_S)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the worker run while the block does."""
        self.worker.resume()
        try:
            yield
        finally:
            self.worker.pause()

    def wait_for(self, keys: Sequence[str], timeout_s: float = _JOBS_TIMEOUT_S) -> None:
        """Return when all results are stored and all messages acknowledged. Bodies are counted from `bodies.reset`."""
        wait_until(lambda: self._is_done(keys), timeout_s, f"{len(keys)} jobs of {self.contender.label}", _POLL_S)

    def _is_done(self, keys: Sequence[str]) -> bool:
        self.worker.check()
        # First the memory: while jobs run, the observer shall not ask Redis anything.
        return self.bodies.count >= len(keys) and self.client.are_stored(keys) and self.client.is_acknowledged()


@contextmanager
def lanes(stage: Stage, contenders: Sequence[Contender], warm_up_jobs: int) -> Iterator[list[Lane]]:
    """A lane each, warm, with all workers frozen; at the end the workers go on, for the next benchmark."""
    made = [Lane(stage, contender) for contender in contenders]
    try:
        for lane in made:
            lane.bodies.reset()
            lane.warm_up(warm_up_jobs)
        yield made
    finally:
        for lane in made:
            lane.worker.resume()
            lane.client.close()
