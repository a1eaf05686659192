"""A Redis that hangs: connections stay open, and nobody answers."""

from __future__ import annotations

import time

import pytest

from kagura_tasks.errors import KaguraTasksError
from tests.support.chaos import VISIBILITY_TIMEOUT_S, Scene
from tests.support.wait import until


def test_nobody_waits_longer_than_he_said(scene: Scene, prompt: str):
    """While Redis is frozen, `get(timeout_s=4)` and `submit` answer within their timeouts and a second; afterwards
    everything goes on, and the calls that ran meanwhile run once."""
    scene.stub.script(delay_s=2 * VISIBILITY_TIMEOUT_S)
    scene.stub.script(when="quick", text="Quick.")
    scene.workers(2, concurrency=2)
    running = [scene.client.submit(f"{prompt} {n}") for n in range(2)]
    scene.until_called(f"{prompt} 0", f"{prompt} 1")
    scene.server.pause()
    try:
        frozen_at = time.monotonic()
        with pytest.raises(KaguraTasksError):
            running[0].get(timeout_s=4)
        assert time.monotonic() - frozen_at < 5
        asked_at = time.monotonic()
        with pytest.raises(KaguraTasksError):
            scene.client.submit(f"{prompt} quick, refused")
        # It looks into the cache, and sends.
        assert time.monotonic() - asked_at < 2 * scene.settings.redis_timeout_s + 1
        until(lambda: time.monotonic() > frozen_at + VISIBILITY_TIMEOUT_S + 1, what="a hang beyond the timeout")
    finally:
        scene.server.resume()
    assert scene.client.complete(f"{prompt} quick").text == "Quick."
    assert all(result.get(timeout_s=20).text for result in running)
    scene.until_settled()
    calls = scene.calls()
    # What the caller was told could not be sent may have arrived, but not twice.
    assert calls.pop(f"{prompt} quick, refused", 0) <= 1
    assert calls == {f"{prompt} quick": 1, f"{prompt} 0": 1, f"{prompt} 1": 1}
