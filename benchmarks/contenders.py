"""Who is compared by calls of a model: our workers, and plain Celery tasks that call `litellm.completion`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol

import redis
from celery import Celery

from benchmarks.celery_records import all_answered
from benchmarks.harness import ProgramSpec, Stage, Startable, WorkerSpec
from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import celery_url
from kagura_tasks.queues import LLM

PLAIN_TASK: Final = "plain.complete"

#: What a hit in LiteLLM's own Redis cache imports, and LiteLLM itself does not bring.
LITELLM_CACHE_PACKAGES: Final = ("orjson", "soundfile", "numpy", "fastapi")
WITHOUT_LITELLM_CACHE: Final = (
    f"LiteLLM's own Redis cache has no row here. Its hits import {', '.join(LITELLM_CACHE_PACKAGES)}, which LiteLLM"
    " does not bring along; `make bench` installs them."
)

#: The setting that says which way our workers take to a provider, and what the tables call each way.
_LANE_SETTING: Final = "KAGURA_TASKS_PROVIDER_LANE"
_LANES: Final = {"auto": "direct", "litellm": "LiteLLM"}


class Caller(Protocol):
    """The caller's side of a queue."""

    def send(self, prompts: Sequence[str]) -> list[str]:
        """Enqueue them; what `are_done` has to be asked for."""
        ...

    def are_done(self, sent: Sequence[str]) -> bool:
        """All are answered, and no message is left. Raises BenchmarkError where one has failed."""
        ...


@dataclass(frozen=True)
class Contender:
    """A kind of worker, and how it is given work.

    Attributes:
        label: Its row in the table.
        worker: How its workers are started.
        open: Makes its caller's side, for a stage.
        exact: A provider request more than there were calls is a failure of the run.
        times: So many times the calls of the others: who is fast needs more of them to be measured as long.
        packages: What has to be installed for it, beside what all have.
    """

    label: str
    worker: Startable
    open: Callable[[Stage], Caller]
    exact: bool = False
    times: float = 1.0
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return [package for package in self.packages if version_of(package) is None]


class CeleryCaller:
    """A Celery app's, stock or ours."""

    def __init__(self, client: redis.Redis, send: Callable[[str], str]) -> None:
        """Take the results' Redis, and what sends a prompt and returns the task's id."""
        self._redis = client
        self._send = send

    def send(self, prompts: Sequence[str]) -> list[str]:
        """See Caller."""
        return [self._send(prompt) for prompt in prompts]

    def are_done(self, sent: Sequence[str]) -> bool:
        """See Caller. The cheap question first: it is asked fifty times a second."""
        return self._redis.hlen("unacked") == 0 and all_answered(self._redis, sent)


def ours(concurrency: int, database: int, pool: str = "threads", lane: str = "auto", times: float = 1.0) -> Contender:
    """`celery -A workers.main worker -Q llm -P ... -c ...`, asked through LLMClient. All prompts differ."""

    def open_caller(stage: Stage) -> Caller:
        client = client_on(stage, database)
        return CeleryCaller(stage.redis(database), lambda prompt: client.submit(prompt).id)

    settings = ((_LANE_SETTING, lane),)
    spec = WorkerSpec("workers.main", pool, concurrency, database, queues=LLM, environment=settings)
    label = f"kagura_tasks, {pool} c{concurrency}, {_LANES[lane]}"
    return Contender(label, spec, open_caller, exact=True, times=times)


def supervised(processes: int, concurrency: int, database: int, lane: str = "auto", times: float = 1.0) -> Contender:
    """`kagura-tasks worker --processes ... --concurrency ...`, on the asyncio pool: so many calls in each process."""
    one = ours(concurrency, database, "asyncio", lane, times)
    kind = ("worker", f"--processes={processes}", f"--queues={LLM}", f"--concurrency={concurrency}")
    quiet = ("--without-gossip", "--without-mingle")
    spec = ProgramSpec("kagura_tasks.cli", (*kind, *quiet), concurrency, database, environment=one.worker.environment)
    return replace(one, label=one.label.replace(" c", f" {processes} x c"), worker=spec)


def plain(pool: str, concurrency: int, database: int, times: float = 1.0, packages: tuple[str, ...] = ()) -> Contender:
    """A stock Celery app under this pool, whose task calls `litellm.completion`."""

    def open_caller(stage: Stage) -> Caller:
        app = plain_app(stage, database)
        return CeleryCaller(stage.redis(database), lambda prompt: str(app.send_task(PLAIN_TASK, [prompt]).id))

    spec = WorkerSpec("benchmarks.plain_llm", pool, concurrency, database)
    return Contender(f"plain Celery, {pool} c{concurrency}", spec, open_caller, times=times, packages=packages)


def plain_with_cache(pool: str, concurrency: int, database: int) -> Contender:
    """The same with LiteLLM's own Redis cache."""
    stock = plain(pool, concurrency, database, packages=LITELLM_CACHE_PACKAGES)
    worker = WorkerSpec(
        "benchmarks.plain_llm", pool, concurrency, database, environment=(("BENCHMARKS_LITELLM_CACHE", "1"),)
    )
    return replace(stock, label="plain Celery, LiteLLM's Redis cache", worker=worker)


def quick_pair() -> list[Contender]:
    """The two that all benchmarks of a quick run share: starting a worker takes seconds."""
    return [ours(64, 1), plain("threads", 64, 2)]


def client_on(stage: Stage, database: int) -> LLMClient:
    """Our client on a database of the stage."""
    return LLMClient(Settings(redis_url=stage.url(database), default_model="openai/gpt-4o-mini"))


def plain_app(stage: Stage, database: int) -> Celery:
    """A stock Celery app, as the caller's side has it."""
    url = celery_url(stage.url(database))
    return Celery("plain", broker=url, backend=url, set_as_current=False)


def version_of(package: str) -> str | None:
    """The release that is installed; None where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
