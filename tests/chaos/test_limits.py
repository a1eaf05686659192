"""Limits while workers are killed and Redis goes away."""

from __future__ import annotations

import json

from tests.support.chaos import Scene
from tests.support.wait import until

_KEY = "kagura:limit:openai/*"


def _limited(**terms: object) -> dict[str, str]:
    return {"KAGURA_TASKS_LIMITS": json.dumps({"openai/*": terms}), "KAGURA_TASKS_FLIGHT_LEASE_S": "1"}


def test_a_killed_workers_place_is_free_when_its_lease_ends(scene: Scene, prompt: str):
    """kill -9 in the middle of the only call that may run: the next one waits for the lease, and for nothing else."""
    scene.stub.script(delay_s=60, times=1)
    environment = _limited(concurrency=1)
    (killed,) = scene.workers(1, "threads", 4, environment=environment)
    first = scene.client.submit(prompt)
    scene.until_called(prompt)
    scene.workers(1, "threads", 4, environment=environment)
    second = scene.client.submit(f"{prompt} And again.")
    until(lambda: scene.redis.zcard(f"{_KEY}:line") == 1, what="a waiter")
    killed.kill9()
    assert second.get(timeout_s=20).text
    # The killed worker's own task comes back as any other does.
    assert first.get(timeout_s=20).text
    assert scene.calls()[prompt] == 2


def test_waiters_of_a_killed_worker_come_back_and_block_nobody(scene: Scene, prompt: str):
    """A worker dies with twenty tasks that wait for their turn: all are answered, each once."""
    scene.stub.script(delay_s=0.2)
    environment = _limited(concurrency=2)
    (killed,) = scene.workers(1, "threads", 8, environment=environment)
    results = [scene.client.submit(f"{prompt} {number}") for number in range(20)]
    until(lambda: scene.redis.zcard(f"{_KEY}:line") > 5, what="a line")
    scene.workers(1, "threads", 8, environment=environment)
    killed.kill9()
    assert all(result.get(timeout_s=60).text for result in results)
    # What the killed one was calling is called again, and nothing else is.
    assert 20 <= sum(scene.calls().values()) <= 22
    scene.until_settled()


def test_a_restarted_redis_keeps_limits_and_line(scene: Scene, prompt: str):
    """It is append-only: calls go on where they were, none is lost, and no more run than there are places."""
    scene.stub.script(delay_s=0.3)
    scene.workers(1, "threads", 8, environment=_limited(concurrency=2))
    results = [scene.client.submit(f"{prompt} {number}") for number in range(12)]
    until(lambda: scene.stub.count() >= 2, what="first calls")
    scene.server.restart()
    assert all(result.get(timeout_s=60).text for result in results)
    assert scene.stub.peak() <= 2
