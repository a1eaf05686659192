"""Workers that are told to stop while they are busy."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.chaos import Scene, answers
from tests.support.wait import until


def test_a_rolling_restart_loses_and_repeats_nothing(scene: Scene, pool: str, prompt: str):
    """Under load, new workers start and each of the old ones is told to stop: all is answered, no call is repeated."""
    scene.stub.script(delay_s=0.7)
    old = scene.workers(2, pool, concurrency=4)
    results = [scene.client.submit(f"{prompt} {n}", use_cache=False) for n in range(60)]
    with ThreadPoolExecutor(1) as waiting:
        answered = waiting.submit(answers, results)
        scene.workers(2, pool, concurrency=4)
        assert not answered.done()
        assert [worker.terminate() for worker in old] == [0, 0]
        assert len(answered.result()) == 60
    scene.until_settled()
    assert set(scene.calls().values()) == {1}
    assert len(scene.calls()) == 60
    assert {result.get(timeout_s=5).attempts for result in results} == {1}


def test_what_was_not_begun_is_no_attempt(scene: Scene, pool: str, prompt: str):
    """A worker that stops hands back what it has fetched beyond its slots, too: nobody tried to answer that."""
    scene.stub.script(text="From the other.")
    scene.stub.script(when="first", times=1, delay_s=60)
    (stopping,) = scene.workers(
        1,
        pool,
        concurrency=1,
        environment={"KAGURA_TASKS_SHUTDOWN_TIMEOUT_S": "1"},
        arguments=("--prefetch-multiplier=3",),
    )
    prompts = [f"{prompt} {which}" for which in ("first", "second", "third")]
    results = [scene.client.submit(one) for one in prompts]
    scene.until_called(prompts[0])
    until(lambda: scene.redis.hlen("unacked") == 3, what="three messages that it holds")
    assert stopping.terminate() == 0
    scene.workers(1, pool)
    assert answers(results) == ["From the other."] * 3
    assert [result.get(timeout_s=5).attempts for result in results] == [2, 1, 1]
    assert scene.calls() == {prompts[0]: 2, prompts[1]: 1, prompts[2]: 1}


def test_a_call_that_outlasts_the_shutdown_is_handed_back(scene: Scene, pool: str, prompt: str):
    """After the setting's second the worker hands its long calls back and exits; another worker makes them. What would
    have ended in time does."""
    scene.stub.script(text="From the other.")
    scene.stub.script(when="long", times=2, delay_s=60)
    scene.stub.script(when="short", delay_s=0.7, text="Just in time.")
    (stopping,) = scene.workers(1, pool, concurrency=4, environment={"KAGURA_TASKS_SHUTDOWN_TIMEOUT_S": "1"})
    prompts = [f"{prompt} long 1", f"{prompt} long 2", f"{prompt} short"]
    results = [scene.client.submit(one) for one in prompts]
    scene.until_called(*prompts)
    os.kill(stopping.pid, signal.SIGTERM)
    told_at = time.monotonic()
    until(lambda: not stopping.is_running, 20, "a worker that ends")
    assert time.monotonic() - told_at < 8
    assert stopping.terminate() == 0
    scene.workers(1, pool)
    assert answers(results) == ["From the other.", "From the other.", "Just in time."]
    assert [result.get(timeout_s=5).attempts for result in results] == [2, 2, 1]
    scene.until_settled()
    assert scene.calls() == {prompts[0]: 2, prompts[1]: 2, prompts[2]: 1}
    assert scene.counts().get("redelivered") is None
