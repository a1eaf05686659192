"""A worker that is frozen (a paused machine, a long swap) and comes back, or does not."""

from __future__ import annotations

from kagura_tasks.delivery_keys import LEASES
from tests.support.chaos import Scene, freeze, thaw
from tests.support.wait import until


def test_a_zombie_writes_nothing(scene: Scene, pool: str, prompt: str):
    """Frozen for longer than the visibility timeout in the middle of its calls, then continued: one result, from one
    attempt. What the zombie brings is refused and counted, and the cache has the other's answer."""
    own_prompt = f"{prompt} Own."
    scene.stub.script(text="From the living.")
    scene.stub.script(text="From the zombie.", delay_s=1.0, times=2)
    (zombie,) = scene.workers(1, pool, concurrency=2)
    asked, own = scene.client.submit(prompt), scene.ask(own_prompt)
    scene.until_called(prompt, own_prompt)
    freeze(zombie)
    (living,) = scene.workers(1, pool, concurrency=2)
    assert (asked.get(timeout_s=20).text, own.get(timeout=20)) == ("From the living.", "From the living.")
    thaw(zombie)
    until(lambda: scene.counts().get("results_refused") == 2, what="two refused results")
    assert scene.client.complete(prompt).text == "From the living."
    assert (asked.get(timeout_s=5).attempts, own.get(timeout=5)) == (2, "From the living.")
    scene.until_settled()
    assert scene.calls() == {prompt: 2, own_prompt: 2}
    # It is a worker like any other again.
    living.kill9()
    assert scene.client.complete(f"{prompt} Again.").text


def test_a_frozen_worker_that_waits_holds_no_message(scene: Scene, prompt: str):
    """Frozen while it waits for a message, sent one, and killed: another worker executes it at once."""
    frozen, _ = scene.workers(2)
    assert scene.client.complete(f"{prompt} 1").text
    until(lambda: not scene.redis.exists("unacked", LEASES), what="idle workers")
    freeze(frozen)
    results = [scene.client.submit(f"{prompt} {n}") for n in range(2, 6)]
    assert all(result.get(timeout_s=2).text for result in results)
    frozen.kill9()
    assert scene.client.complete(f"{prompt} 6").text
    scene.until_settled()
    assert set(scene.calls().values()) == {1}
    assert scene.counts() == {}


def test_a_worker_that_was_frozen_while_it_waited_goes_on(scene: Scene, prompt: str):
    """Alone, frozen while it waits, sent messages, and continued: each is executed once."""
    (only,) = scene.workers(1)
    freeze(only)
    results = [scene.client.submit(f"{prompt} {n}") for n in range(6)]
    thaw(only)
    assert all(result.get(timeout_s=10).text for result in results)
    scene.until_settled()
    assert set(scene.calls().values()) == {1}
    assert len(scene.calls()) == 6
