"""What a killed worker held goes to another, in time, and what it had finished is not done again."""

from __future__ import annotations

import time

from tests.support.chaos import VISIBILITY_TIMEOUT_S, Scene


def test_another_worker_takes_over(scene: Scene, pool: str, prompt: str):
    """kill -9 in the middle of calls: within the visibility timeout + 2 s another worker makes them, each a second time
    and no more. A prompt's answer tells of two attempts."""
    own_prompt = f"{prompt} Own."
    scene.stub.script(text="After all.")
    scene.stub.script(delay_s=60, times=2)
    (first,) = scene.workers(1, pool, concurrency=2)
    asked, own = scene.client.submit(prompt), scene.ask(own_prompt)
    scene.until_called(prompt, own_prompt)
    scene.workers(1, pool, concurrency=2)
    first.kill9()
    killed_at = time.monotonic()
    scene.until_called(prompt, own_prompt, times=2)
    assert time.monotonic() - killed_at < VISIBILITY_TIMEOUT_S + 2
    completion = asked.get(timeout_s=10)
    assert (completion.text, completion.attempts, own.get(timeout=10)) == ("After all.", 2, "After all.")
    scene.until_settled()
    assert scene.calls() == {prompt: 2, own_prompt: 2}
    assert scene.counts() == {"redelivered": 2}


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
