"""Many tasks, workers that are killed again and again, and a Redis that restarts in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.chaos import Scene
from tests.support.wait import until
from tests.support.workers import Worker

#: In full: 500 tasks, and a kill each 5 s. The time that a call takes keeps the fleet busy for some kills.
TASKS = 80
KILL_EACH_S = 3.0
CALL_S = 1.5
POOLS = ["threads", "prefork", "asyncio"]
CONCURRENCY = 5

#: A task that is with three killed workers in a row is taken for what kills them. Here that happens to innocents.
_MANY_DEATHS = {"KAGURA_TASKS_MAX_DEATHS": "20"}


@pytest.mark.timeout(600)
def test_nothing_is_lost_and_little_is_repeated(scene: Scene, prompt: str):
    """A worker of each pool. One is killed every few seconds and replaced, Redis (append-only) is restarted once: each
    task is answered, and the provider is asked no more often than there are tasks and calls that a kill cut off."""
    scene.stub.script(delay_s=CALL_S)
    workers = [_started(scene, pool) for pool in POOLS]
    results = [scene.client.submit(f"{prompt} {n}", use_cache=False) for n in range(TASKS)]
    with ThreadPoolExecutor(1) as waiting:
        answered = waiting.submit(lambda: [result.get(timeout_s=400).text for result in results])
        kills = 0
        while not _is_true_within(answered.done, KILL_EACH_S):
            pool = POOLS[kills % len(POOLS)]
            workers.pop(0).kill9()
            kills += 1
            if kills == 2:
                scene.server.restart()
            workers.append(_started(scene, pool))
        assert len(answered.result()) == TASKS
    assert kills >= 2
    scene.until_settled()
    calls = scene.calls()
    assert len(calls) == TASKS
    assert sum(calls.values()) <= TASKS + kills * CONCURRENCY
    assert sum(result.get(timeout_s=5).attempts for result in results) >= TASKS


def _started(scene: Scene, pool: str) -> Worker:
    (worker,) = scene.workers(1, pool, CONCURRENCY, environment=_MANY_DEATHS)
    return worker


def _is_true_within(condition: Callable[[], bool], seconds: float) -> bool:
    """The pace of the kills is a time, cut short by the end."""
    ends_at = time.monotonic() + seconds
    until(lambda: condition() or time.monotonic() > ends_at, seconds + 5)
    return condition()
