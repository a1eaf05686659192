"""The end of tasks on the asyncio pool: time limits, revoking, stopping workers, and a Redis that is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from kagura_tasks import LLMClient, Settings
from tests.support.llm import StubServer
from tests.support.pool import PoolScene, pool_scene
from tests.support.wait import until


@pytest.fixture(scope="module")
def pool(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolScene]:
    """One worker for all tests that do not end it."""
    with pool_scene(stub_server, tmp_path_factory.mktemp("pool")) as scene:
        scene.start(64)
        yield scene


@pytest.fixture
def scene(stub: StubServer, tmp_path) -> Iterator[PoolScene]:
    """A Redis and workers of this test's own."""
    with pool_scene(stub, tmp_path) as scene:
        yield scene


def left(stub: StubServer) -> int:
    """Requests whose client closed the connection before the answer."""
    return sum(one["left"] for one in stub.ledger()["requests"])


def test_the_hard_limit(pool: PoolScene, stub: StubServer):
    """A call of 30 s with a limit of 2 s ends at 2 s, with TimeLimitExceeded, and closes its connection."""
    stub.script(delay_s=30)
    result = pool.send("ask", "hi", time_limit=2)
    until(lambda: stub.count() == 1, what="the call")
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    assert 1.5 < time.monotonic() - began < 2.5
    until(lambda: left(stub) == 1, 1, "a closed connection")
    pool.until_settled()


def test_a_hard_limit_tells_everybody(pool: PoolScene):
    """Errbacks and the task's own `on_failure` hear of it."""
    result = pool.send("hooked_and_late", link_error=pool.s("tell_of_error", "errback-late"))
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    until(lambda: pool.notes("errback-late"), what="the errback")
    until(lambda: "on_failure TimeLimitExceeded" in pool.notes(f"hooks {result.id}"), what="on_failure")


def test_the_soft_limit(pool: PoolScene, stub: StubServer):
    """The task fails with SoftTimeLimitExceeded where it does not catch it, and its connection is closed."""
    stub.script(delay_s=30)
    with pytest.raises(SoftTimeLimitExceeded):
        pool.send("ask_in_time", "hi", soft_time_limit=0.5).get(timeout=20)
    until(lambda: left(stub) == 1, 1, "a closed connection")


def test_a_task_may_clean_up_after_its_soft_limit(pool: PoolScene, stub: StubServer):
    """It catches it, through whatever of asyncio it waits in, which lets go; what it then returns is its result."""
    stub.script(delay_s=30)
    result = pool.send("ask_with_care", "hi", soft_time_limit=0.5, time_limit=20)
    assert result.get(timeout=10) == "cleaned up"
    until(lambda: left(stub) == 1, 1, "a closed connection")


def test_a_plain_function_may_clean_up_after_its_soft_limit(pool: PoolScene):
    """It catches it between two of its instructions; what it then returns is its result."""
    result = pool.send("polls_plain", 30, "polled-1", soft_time_limit=0.3, time_limit=20)
    assert result.get(timeout=10) == "cleaned up"
    assert f"Soft time limit (0.3s) exceeded for tests.support.pool_app.polls_plain[{result.id}]" in pool.worker.log


def test_a_blocking_call_returns_before_a_soft_limit_is_seen(pool: PoolScene):
    """Nothing can interrupt `time.sleep` in a thread; what comes after it is not run."""
    sent = time.monotonic()
    with pytest.raises(SoftTimeLimitExceeded):
        pool.send("sleep_plain", 0.6, soft_time_limit=0.2).get(timeout=20)
    assert time.monotonic() - sent > 0.6


@pytest.mark.parametrize("how", ["hard limit", "revoked"])
def test_a_plain_function_ends_with_its_task(pool: PoolScene, how: str):
    """After its hard limit or `revoke(terminate=True)` it is left, through its `finally`."""
    result = pool.send("polls_plain", 60, f"polled {how}", time_limit=0.3 if how == "hard limit" else None)
    if how == "revoked":
        until(lambda: pool.stats()["running"] == 1, what="the running task")
        pool.app.control.revoke(result.id, terminate=True)
    with pytest.raises(TimeLimitExceeded if how == "hard limit" else TaskRevokedError):
        result.get(timeout=20)
    until(lambda: pool.notes(f"polled {how}") == ["the end"], 5, "the end of the function")
    pool.until_settled()


def test_a_plain_function_at_its_hard_limit(pool: PoolScene):
    """Its task has failed; that the function sleeps on is logged and counted, and its thread is replaced."""
    before = pool.stats()["abandoned"]
    result = pool.send("sleep_plain", 2.0, time_limit=0.3)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    assert pool.stats()["abandoned"] == before + 1
    assert "runs on in its thread" in pool.worker.log


@pytest.mark.parametrize("kind", ["a task of a team's own", "a prompt"])
def test_revoking_closes_the_connection(pool: PoolScene, stub: StubServer, prompt: str, kind: str):
    """`revoke(terminate=True)`: within a second; other tasks, also of the same provider, go on."""
    stub.script(when="other", delay_s=1.5, text="The other.")
    stub.script(when="revoked", delay_s=30)
    client = LLMClient(Settings(redis_url=pool.server.url))
    ask = (lambda text: client.submit(text).id) if kind == "a prompt" else (lambda text: pool.send("ask", text).id)
    revoked, other = ask(f"{prompt} revoked"), ask(f"{prompt} other")
    until(lambda: stub.count() == 2, what="both calls")
    pool.app.control.revoke(revoked, terminate=True)
    until(lambda: left(stub) == 1, 1, "a closed connection")
    if kind == "a prompt":
        assert client.result(other).get(timeout_s=10).text == "The other."
    else:
        assert pool.app.AsyncResult(other).get(timeout=10) == "The other."
        with pytest.raises(TaskRevokedError):
            pool.app.AsyncResult(revoked).get(timeout=10)
    pool.until_settled()
    assert left(stub) == 1


def test_a_coroutine_that_will_not_be_cancelled(pool: PoolScene):
    """At its hard limit it is abandoned: its slot is free, it is logged and counted, and its late result is refused."""
    before = pool.stats()
    result = pool.send("swallows", 2.5, time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    until(lambda: pool.stats()["abandoned"] == before["abandoned"] + 1, what="the count")
    assert "a task swallows its cancellation" in pool.worker.log
    until(lambda: pool.notes("swallowed")[-1] == "the end", what="its end")
    assert pool.send("add", 1, 2).get(timeout=20) == 3
    assert result.state == "FAILURE"
    pool.until_settled()


def test_grow_and_shrink(scene: PoolScene):
    """`control.pool_grow` and `pool_shrink`: more and fewer tasks at a time, from then on."""
    worker = scene.start(2, arguments=("--prefetch-multiplier=8",))
    results = [scene.send("sleep", 1.0) for _ in range(12)]
    until(lambda: scene.stats()["running"] == 2, what="two tasks")
    scene.app.control.pool_grow(3, destination=[worker.hostname])
    until(lambda: scene.stats()["running"] == 5, what="five tasks")
    scene.app.control.pool_shrink(4, destination=[worker.hostname])
    until(lambda: scene.stats()["running"] == 1, what="one task")
    scene.app.control.pool_grow(8, destination=[worker.hostname])
    assert [result.get(timeout=20) for result in results] == ["slept"] * 12


def test_autoscale(scene: PoolScene):
    """With --autoscale it grows when there is more to do."""
    scene.start(1, arguments=("--autoscale=6,1",))
    results = [scene.send("sleep", 1.5) for _ in range(6)]
    until(lambda: scene.stats()["running"] == 6, what="six tasks")
    assert [result.get(timeout=20) for result in results] == ["slept"] * 6


def test_a_stopping_worker_hands_running_tasks_back(scene: PoolScene):
    """After the shutdown timeout another worker has them, and this one is gone, whatever they do about it."""
    stopping = scene.start(8, environment={"KAGURA_TASKS_SHUTDOWN_TIMEOUT_S": "0.5"})
    long = {name: scene.send(name, 2.5) for name in ("sleep", "sleep_plain", "swallows")}
    until(lambda: scene.stats()["running"] == 3, what="the long tasks")
    short = scene.send("sleep", 0.4)
    until(lambda: scene.stats()["running"] == 4, what="the short task")
    began = time.monotonic()
    assert stopping.terminate() == 0
    assert time.monotonic() - began < 5
    assert "running tasks go to other workers" in stopping.log
    assert short.get(timeout=1) == "slept"
    assert not any(result.ready() for result in long.values())
    scene.start(8)
    assert [result.get(timeout=20) for result in long.values()] == ["slept", "slept", "late"]
    scene.until_settled()


def test_a_blocked_worker_stops_all_the_same(scene: PoolScene):
    """A task that blocks the loop keeps nobody from stopping it; what it held is in the queue again."""
    stopping = scene.start(8, environment={"KAGURA_TASKS_SHUTDOWN_TIMEOUT_S": "0.5"})
    scene.send("sleep", 60)
    until(lambda: scene.stats()["running"] == 1, what="the task that waits")
    scene.send("blocks", 60)
    until(lambda: "a task has blocked the event loop" in stopping.log, what="the watch's warning")
    began = time.monotonic()
    assert stopping.terminate() == 0
    assert time.monotonic() - began < 12
    assert scene.redis.llen("llm") == 2


def test_celerys_own_soft_shutdown(scene: PoolScene):
    """`worker_soft_shutdown_timeout`: SIGQUIT gives tasks so long; what still runs is handed back."""
    stopping = scene.start(8, environment={"POOL_SOFT_SHUTDOWN_S": "1"})
    long, short = scene.send("sleep", 2.0), scene.send("sleep", 0.3)
    until(lambda: scene.stats()["running"] == 2, what="both tasks")
    os.kill(stopping.pid, signal.SIGQUIT)
    assert short.get(timeout=20) == "slept"
    until(lambda: not stopping.is_running, 15, "the end of the worker")
    assert not long.ready()
    scene.start(8)
    assert long.get(timeout=20) == "slept"
    scene.until_settled()


def test_results_wait_for_a_redis_that_is_away(stub: StubServer, tmp_path):
    """Tasks that end while Redis is restarted store their results when it is back."""
    with pool_scene(stub, tmp_path, appendonly=True) as scene:
        scene.start(64)
        results = [scene.send("sleep", 1.0) for _ in range(50)]
        until(lambda: scene.stats()["running"] == 50, what="fifty tasks")
        scene.server.kill()
        until(lambda: "results cannot be stored: Redis is away" in scene.worker.log, what="the worker's complaint")
        scene.server.restart()
        assert [result.get(timeout=30) for result in results] == ["slept"] * 50
        scene.until_settled()
