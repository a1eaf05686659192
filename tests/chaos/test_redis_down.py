"""A Redis that is away for longer than the visibility timeout, and connections that are cut."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import redis

from tests.support.chaos import VISIBILITY_TIMEOUT_S, Scene, answers
from tests.support.wait import until


def test_a_long_outage_repeats_nothing(scene: Scene, pool: str, prompt: str):
    """Redis (append-only) is down for longer than the visibility timeout while calls run, others wait for a slot and
    others for their time: each still runs once, and each waiter gets its answer."""
    scene.stub.script(delay_s=2 * VISIBILITY_TIMEOUT_S)
    scene.stub.script(when="short", delay_s=1.0)
    scene.workers(2, pool, concurrency=2)
    running = [scene.client.submit(f"{prompt} {n}") for n in range(2)]
    short = [scene.client.submit(f"{prompt} short {n}") for n in range(4)]
    later = scene.ask(f"{prompt} short, later", countdown=1.5 * VISIBILITY_TIMEOUT_S)
    scene.until_called(*(f"{prompt} {n}" for n in range(2)))
    with ThreadPoolExecutor(1) as waiting:
        answered = waiting.submit(answers, [*running, *short])
        scene.server.kill()
        down_until = time.monotonic() + VISIBILITY_TIMEOUT_S + 2
        until(lambda: time.monotonic() > down_until)
        scene.server.restart()
        assert len(answered.result()) == 6
    assert later.get(timeout=20)
    scene.until_settled()
    assert set(scene.calls().values()) == {1}
    assert len(scene.calls()) == 7


def test_cut_connections_repeat_nothing(scene: Scene, pool: str, prompt: str):
    """CLIENT KILL of all connections, several times while calls run, wait and come in: each runs once."""
    scene.stub.script(delay_s=VISIBILITY_TIMEOUT_S + 1)
    scene.stub.script(when="short", delay_s=0.3)
    scene.workers(2, pool, concurrency=3, arguments=("--prefetch-multiplier=2",))
    results = [scene.client.submit(f"{prompt} {n}") for n in range(4)]
    scene.until_called(*(f"{prompt} {n}" for n in range(4)))
    for round_ in range(4):
        results += [scene.client.submit(f"{prompt} short {round_} {n}") for n in range(3)]
        for kind in ("pubsub", "normal"):
            _cut(scene, kind)
        until(lambda: _consumers(scene) == 2, what="workers that consume again")
    assert len(answers(results)) == 16
    scene.until_settled()
    assert set(scene.calls().values()) == {1}
    assert len(scene.calls()) == 16


def _cut(scene: Scene, kind: str) -> None:
    with redis.Redis.from_url(scene.server.url) as client:
        client.client_kill_filter(_type=kind, skipme=True)


def _consumers(scene: Scene) -> int:
    """Connections that are told of changes: one for each worker."""
    return sum("t" in client["flags"] for client in scene.redis.client_list())
