"""A Redis that restarts, hangs, cuts connections, is full, or forgets, while streams are written."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from kagura_tasks import LLMClient
from kagura_tasks.streaming.events import Done, Gap, Lost
from tests.support.chaos import RENEWAL_S, Scene
from tests.support.stream_places import numbers
from tests.support.stream_scenes import PoolScene, Reading
from tests.support.wait import until

_TEXT = "".join(f"{number}, " for number in range(50))
_SLOW = {"text": _TEXT, "chunks": 50, "chunk_delay_s": 0.03}


def _restart(scene: PoolScene) -> None:
    scene.server.restart()


def _crash(scene: PoolScene) -> None:
    scene.server.kill()
    scene.server.restart()


def _cut(scene: PoolScene) -> None:
    """Every connection but this one, several times."""
    with redis.Redis.from_url(scene.server.url) as client:
        for _ in range(5):
            for kind in ("pubsub", "normal"):
                client.client_kill_filter(_type=kind, skipme=True)
            time.sleep(0.1)


def _hang(scene: PoolScene) -> None:
    """For longer than anybody waits for an answer."""
    scene.server.pause()
    time.sleep(scene.settings.redis_timeout_s + 0.5)
    scene.server.resume()


def _fill(scene: PoolScene) -> None:
    """Until writers have tried in vain, and again."""
    scene.redis.config_set("maxmemory", 1)
    before = _refused(scene)
    until(lambda: _refused(scene) >= before + 2, what="a second try")
    scene.redis.config_set("maxmemory", 0)


def _refused(scene: PoolScene) -> int:
    return int(scene.redis.info("errorstats").get("errorstat_OOM", {}).get("count", 0))


@pytest.mark.parametrize("pool", ["threads"])
@pytest.mark.parametrize("harm", [_restart, _crash, _cut, _hang, _fill])
def test_a_text_is_whole_whatever_redis_does(pool_scene: PoolScene, prompt: str, harm: Callable[[PoolScene], None]):
    """Append-only, restarted, killed, cut off, frozen or full in the middle of a stream: readers that were there, and
    those that come later, get each event once, and the provider's text."""
    pool_scene.stub.script(**_SLOW)
    readings = [Reading(pool_scene.client.stream(prompt))]
    readings[0].until_text()
    readings += [Reading(pool_scene.client.resume(readings[0].stream.id)) for _ in range(3)]
    harm(pool_scene)
    assert [reading.until_over().kind for reading in readings] == ["done"] * 4
    readings.append(Reading(pool_scene.client.resume(readings[0].stream.id)))
    assert isinstance(readings[-1].until_over(), Done)
    for reading in readings:
        assert numbers(reading.events) == list(range(1, len(reading.events) + 1))
        assert (reading.kinds, reading.text) == (["start", "done"], _TEXT)
    assert pool_scene.client.result(readings[0].stream.id).get(timeout_s=10).text == _TEXT
    assert pool_scene.calls_of(prompt) == 1


def test_what_a_redis_forgot_is_told(forgetful_scene: Scene, prompt: str):
    """Without memory, and restarted in the middle: who reads on gets the rest, and is told where some is missing; who
    comes later is told that the beginning is. The whole text is in the answer."""
    scene = forgetful_scene
    scene.stub.script(**_SLOW)
    scene.workers(1)
    reading = Reading(scene.client.stream(prompt))
    reading.until_text()
    scene.server.kill()
    scene.server.restart()
    assert isinstance(reading.until_over(), Done)
    assert reading.text == _TEXT or "gap" in reading.kinds
    assert reading.stream.completion().text == _TEXT
    late = Reading(scene.client.resume(reading.stream.id))
    assert isinstance(late.until_over(), Done)
    assert isinstance(late.events[0], Gap)
    assert _TEXT.endswith(late.text)
    assert late.stream.completion().text == _TEXT


def test_a_stream_that_nobody_will_write_is_lost(forgetful_scene: Scene, prompt: str):
    """Redis forgot it, and its worker died: readers are told so within a renewal and a few seconds."""
    scene = forgetful_scene
    scene.stub.script(**_SLOW)
    (worker,) = scene.workers(1)
    reading = Reading(LLMClient(scene.settings.override(stream_heartbeat_s=0.5)).stream(prompt))
    reading.until_text()
    worker.kill9()
    scene.server.kill()
    scene.server.restart()
    restarted_at = time.monotonic()
    assert isinstance(reading.until_over(), Lost)
    assert time.monotonic() - restarted_at < RENEWAL_S + 5 + 6
