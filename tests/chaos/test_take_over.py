"""What a killed worker held goes to another, in time, and what it had finished is not done again."""

from __future__ import annotations

import time

import pytest

from tests.support.chaos import VISIBILITY_TIMEOUT_S, Scene


@pytest.mark.parametrize("kind", ["a prompt", "a task of a team's own"])
def test_another_worker_takes_over(scene: Scene, pool: str, prompt: str, kind: str):
    """kill -9 in the middle of a call: within the visibility timeout + 2 s another makes it; it is called for twice."""
    scene.stub.script(text="After all.")
    scene.stub.script(delay_s=60, times=1)
    scene.workers(2, pool, concurrency=1)
    result = scene.client.submit(prompt) if kind == "a prompt" else scene.ask(prompt)
    scene.until_called(prompt)
    scene.holder_of(result.id).kill9()
    killed_at = time.monotonic()
    scene.until_called(prompt, times=2)
    assert time.monotonic() - killed_at < VISIBILITY_TIMEOUT_S + 2
    if kind == "a prompt":
        completion = scene.client.result(result.id).get(timeout_s=10)
        assert (completion.text, completion.attempts) == ("After all.", 2)
    else:
        assert result.get(timeout=10) == "After all."
    scene.until_settled()
    assert scene.calls() == {prompt: 2}
    assert scene.counts() == {"redelivered": 1}


def test_what_was_stored_is_not_called_for_again(scene: Scene, pool: str, prompt: str):
    """Killed between the answer's storage and the acknowledgement: the next worker finds it, and calls nobody."""
    scene.workers(1, pool, environment={"CHAOS_STOP_ONCE_STORED": "1"})
    result = scene.client.submit(prompt)
    answer = result.get(timeout_s=30)
    (stopped,) = scene.fleet.workers
    assert scene.redis.hlen("unacked") == 1
    stopped.kill9()
    scene.workers(1, pool)
    scene.until_settled()
    assert scene.counts() == {"redelivered": 1}
    assert result.get(timeout_s=5) == answer
    assert scene.calls() == {prompt: 1}
