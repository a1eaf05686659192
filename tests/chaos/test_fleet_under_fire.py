"""Many tasks, workers that are killed again and again, and a Redis that restarts in between."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.chaos import Scene
from tests.support.wait import until

#: In full: 500 tasks, and a kill each 5 s. The time that a call takes keeps the fleet busy for some kills.
TASKS = 80
KILL_EACH_S = 3.0
CALL_S = 1.5
WORKERS = 3
CONCURRENCY = 5

#: A task that is with three killed workers in a row is taken for what kills them. Here that happens to innocents.
_MANY_DEATHS = {"KAGURA_TASKS_MAX_DEATHS": "20"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["threads", "prefork", "asyncio"])
def test_nothing_is_lost_and_little_is_repeated(scene: Scene, pool: str, prompt: str):
    """A worker is killed every few seconds and replaced, Redis (append-only) is restarted once: each task is answered,
    and the provider is asked no more often than there are tasks and calls that a kill cut off."""
    scene.stub.script(delay_s=CALL_S)
    options = {"concurrency": CONCURRENCY, "environment": _MANY_DEATHS}
    workers = scene.workers(WORKERS, pool, **options)
    results = [scene.client.submit(f"{prompt} {n}", use_cache=False) for n in range(TASKS)]
    cut_off = 0
    with ThreadPoolExecutor(1) as waiting:
        answered = waiting.submit(lambda: [result.get(timeout_s=200).text for result in results])
        for kills in itertools.count(1):
            _sleep_unless(answered.done, KILL_EACH_S)
            if answered.done():
                break
            workers.pop(0).kill9()
            cut_off += CONCURRENCY
            if kills == 2:
                scene.server.restart()
            workers += scene.workers(1, pool, **options)
        assert len(answered.result()) == TASKS
    assert kills >= 3
    scene.until_settled()
    calls = scene.calls()
    assert len(calls) == TASKS
    assert sum(calls.values()) <= TASKS + cut_off
    # A task was in no more kills than it was called for again.
    assert sum(result.get(timeout_s=5).attempts for result in results) >= TASKS


def _sleep_unless(done, seconds: float) -> None:
    """The pace of the kills: a time, cut short by the end."""
    ends_at = time.monotonic() + seconds
    until(lambda: done() or time.monotonic() > ends_at, seconds + 5)
