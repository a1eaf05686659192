"""`kagura-tasks worker`: the asyncio pool, and several processes under one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from kagura_tasks import LLMClient, Settings
from kagura_tasks.app import create_app
from tests.integration.test_cli import Started, all_gone, started, the_error
from tests.integration.test_cli import program as run_program
from tests.support.llm import LlmServer
from tests.support.wait import until

OPTIONS = ["--processes", "2", "--hostname=night@test", "--concurrency", "4", "--without-mingle"]


@pytest.fixture
def several(redis_url: str, llm: LlmServer, tmp_path: Path) -> Iterator[Started]:
    """Two workers, not ready yet."""
    keys = {"OPENAI_API_KEY": "k", "OPENAI_API_BASE": llm.base_url, "KAGURA_TASKS_SHUTDOWN_TIMEOUT_S": "3"}
    with started(tmp_path, "worker", *OPTIONS, redis_url=redis_url, environment=keys) as running:
        until(lambda: len(running.family()) == 2, 60, "two processes")
        yield running


def written(running: Started) -> str:
    """The workers write where their supervisor does."""
    return running.stdout + running.stderr


def test_several_workers_and_their_end(several: Started, settings: Settings, llm: LlmServer, prompt: str):
    """Each has a name of its own and the asyncio pool; a killed one is replaced; SIGTERM ends all, calls first."""
    # By its command line: it may be no worker yet.
    second = until(lambda: [one for one in several.family() if "--hostname=night-2@test" in one.cmdline()])
    second[0].kill()
    until(lambda: "worker 2 was ended by SIGKILL: starting it again in 1 s" in written(several), what="the news")

    names = {f"night-{number}@test" for number in (1, 2)}
    until(lambda: all(f"{name} ready." in written(several) for name in names), 90, "two ready workers")
    app = create_app(settings)
    stats = until(lambda: (found := app.control.inspect(timeout=2).stats() or {}).keys() == names and found)
    assert {one["pool"]["implementation"] for one in stats.values()} == {"kagura_tasks.worker.pool:TaskPool"}

    llm.delay(2.0)
    client = LLMClient(settings)
    results = [client.submit(f"{prompt} {n}") for n in range(8)]
    until(lambda: len(active(app)) == 8, what="running calls")
    family = several.family()
    assert several.stop(signal.SIGTERM) == 0
    all_gone(family)
    assert [result.status() for result in results] == ["SUCCESS"] * 8


def active(app: Celery) -> list[object]:
    """What the workers run."""
    found = app.control.inspect(timeout=0.5).active() or {}
    return [task for tasks in found.values() for task in tasks]


def test_no_orphan(several: Started):
    """kill -9 of the one that watches ends its workers, too."""
    family = several.family()
    several.stop(signal.SIGKILL)
    all_gone(family)


def test_what_is_for_one_worker():
    """Two schedulers would send everything twice."""
    assert "--beat is for one worker" in the_error(run_program("worker", "--processes", "2", "--beat"))
