"""Who is compared: our worker, and plain Celery tasks that call `litellm.completion`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from celery import Celery

from benchmarks.harness import Stage, WorkerSpec
from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import celery_url
from kagura_tasks.queues import LLM

#: Sends one prompt, and returns the task's id.
Send = Callable[[str], str]

PLAIN_TASK: Final = "plain.complete"


@dataclass(frozen=True)
class Contender:
    """A kind of worker, and how it is given work.

    Attributes:
        label: Its row in the table.
        worker: How its workers are started.
        open: Makes its sender, for a stage.
        exact: A provider request more than there were calls is a failure of the run.
    """

    label: str
    worker: WorkerSpec
    open: Callable[[Stage], Send]
    exact: bool = False


def ours(concurrency: int, database: int, pool: str = "threads") -> Contender:
    """`celery -A workers.main worker -Q llm -P ... -c ...`, asked through LLMClient. All prompts differ."""

    def open_sender(stage: Stage) -> Send:
        client = client_on(stage, database)
        return lambda prompt: client.submit(prompt).id

    spec = WorkerSpec("workers.main", pool, concurrency, database, queues=LLM)
    return Contender(f"kagura_tasks, {pool} c{concurrency}", spec, open_sender, exact=True)


def plain(pool: str, concurrency: int, database: int) -> Contender:
    """A stock Celery app under this pool, whose task calls `litellm.completion`."""

    def open_sender(stage: Stage) -> Send:
        app = plain_app(stage, database)
        return lambda prompt: str(app.send_task(PLAIN_TASK, [prompt]).id)

    spec = WorkerSpec("benchmarks.plain_llm", pool, concurrency, database)
    return Contender(f"plain Celery, {pool} c{concurrency}", spec, open_sender)


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
