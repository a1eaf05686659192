"""A worker on kombu's own transport beside ours, as during a migration."""

from __future__ import annotations

from tests.support.chaos import VISIBILITY_TIMEOUT_S, Scene


def test_a_stock_worker_and_ours_share_a_queue(scene: Scene, prompt: str):
    """All runs once, whoever takes it; also what runs on the stock worker for longer than our visibility timeout, and
    what it fetched ahead or keeps for its time."""
    scene.stub.script(delay_s=VISIBILITY_TIMEOUT_S + 1)
    scene.stub.script(when="short", delay_s=0.2)
    (stock,) = scene.workers(1, concurrency=2, environment={"CHAOS_STOCK": "1"}, arguments=("--prefetch-multiplier=2",))
    asked = [f"{prompt} long 1", f"{prompt} long 2", f"{prompt} short, waiting 1", f"{prompt} short, waiting 2"]
    results = [scene.ask(one) for one in asked]
    later = [f"{prompt} short, later {n}" for n in range(4)]
    results += [scene.ask(one, countdown=VISIBILITY_TIMEOUT_S + 1) for one in later]
    scene.until_called(*asked[:2])
    (ours,) = scene.workers(1, concurrency=2)
    short = [f"{prompt} short {n}" for n in range(12)]
    results += [scene.ask(one) for one in short]
    assert all(result.get(timeout=40) for result in results)
    assert all("] received" in worker.log for worker in (stock, ours))
    scene.until_settled()
    assert scene.calls() == dict.fromkeys([*asked, *later, *short], 1)
