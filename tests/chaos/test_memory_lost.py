"""A Redis that keeps nothing on a disk is restarted."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kagura_tasks.errors import TaskLost
from tests.support.chaos import RENEWAL_S, Scene


def test_what_was_lost_is_reported_and_what_runs_is_answered(forgetful_scene: Scene, prompt: str):
    """Queued tasks are gone, and whoever waits for one is told so within a renewal and a few seconds; the waiter of the
    one that runs gets its answer, and it runs once."""
    scene = forgetful_scene
    scene.stub.script(delay_s=9.0)
    scene.workers(1, concurrency=1)
    running = scene.client.submit(prompt)
    scene.until_called(prompt)
    queued = [scene.client.submit(f"{prompt} {n}") for n in range(3)]
    with ThreadPoolExecutor(4) as waiting:
        answer = waiting.submit(running.get, 40)
        lost = [waiting.submit(one.get, 40) for one in queued]
        scene.server.kill()
        scene.server.restart()
        restarted_at = time.monotonic()
        for one in lost:
            with pytest.raises(TaskLost):
                one.result()
        assert time.monotonic() - restarted_at < RENEWAL_S + 5 + 6
        assert answer.result().text
    scene.until_settled()
    assert scene.calls() == {prompt: 1}
