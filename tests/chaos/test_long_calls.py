"""Work that takes longer than the visibility timeout is not given to anybody else."""

from __future__ import annotations

from tests.support.chaos import VISIBILITY_TIMEOUT_S, Scene, answers

_LONGER_S = VISIBILITY_TIMEOUT_S * 1.5


def test_long_calls_are_made_once(scene: Scene, pool: str, prompt: str):
    """Running, fetched ahead or waiting for its time: whatever a living worker holds for long, runs once."""
    scene.stub.script(delay_s=_LONGER_S)
    scene.stub.script(when="quick", text="Quick.")
    scene.workers(2, pool, concurrency=2, arguments=("--prefetch-multiplier=3",))
    later = [scene.ask(f"{prompt} quick, later {n}", countdown=_LONGER_S) for n in range(2)]
    results = [scene.client.submit(f"{prompt} {n}") for n in range(2)]
    own = [scene.ask(f"{prompt} quick, own {n}") for n in range(2)]
    assert len(answers(results)) == 2
    assert all(result.get(timeout=60) for result in own)
    assert [result.get(timeout=60) for result in later] == ["Quick."] * 2
    scene.until_settled()
    assert set(scene.calls().values()) == {1}
    assert len(scene.calls()) == 6
    assert scene.counts() == {}
    assert all(result.get(timeout_s=5).attempts == 1 for result in results)
