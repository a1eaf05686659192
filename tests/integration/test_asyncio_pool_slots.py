"""The asyncio pool with two slots: what becomes of tasks that wait for one, and what a worker's options say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult

from tests.support.llm import StubServer
from tests.support.pool import PoolScene, pool_scene
from tests.support.wait import until

ARGUMENTS = ("--prefetch-multiplier=8", "--time-limit=1", "--soft-time-limit=30", "--max-tasks-per-child=3")


@pytest.fixture(scope="module")
def pool(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolScene]:
    """One worker for all tests that lose no connection."""
    with pool_scene(stub_server, tmp_path_factory.mktemp("pool")) as scene:
        scene.start(2, arguments=ARGUMENTS)
        yield scene


def fill(pool: PoolScene, seconds: float) -> list[AsyncResult[str]]:
    """Tasks in both slots."""
    both = [pool.send("sleep", seconds) for _ in range(2)]
    until(lambda: pool.stats()["running"] == 2, what="two tasks")
    return both


def until_it_waits(pool: PoolScene, result: AsyncResult[str]) -> None:
    """Until the worker has the task."""
    inspect = pool.app.control.inspect([pool.worker.hostname], timeout=5.0)
    until(lambda: result.id in str(inspect.reserved()), what="the task that waits")


def test_a_task_that_is_revoked_before_its_turn_never_runs(pool: PoolScene):
    """Though the worker had it already."""
    both = fill(pool, 0.6)
    revoked = pool.send("without_result", "revoked-1", ignore_result=False)
    until_it_waits(pool, revoked)
    pool.app.control.revoke(revoked.id)
    with pytest.raises(TaskRevokedError, match="revoked"):
        revoked.get(timeout=20)
    assert [result.get(timeout=20) for result in both] == ["slept"] * 2
    pool.until_settled()
    assert pool.notes("revoked-1") == []


def test_a_task_that_expires_before_its_turn_never_runs(pool: PoolScene):
    """`expires` counts until it begins."""
    both = fill(pool, 0.9)
    expired = pool.send("without_result", "expired-1", ignore_result=False, expires=0.5)
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=20)
    assert [result.get(timeout=20) for result in both] == ["slept"] * 2
    pool.until_settled()
    assert pool.notes("expired-1") == []


def test_the_workers_own_time_limit(pool: PoolScene):
    """`--time-limit` holds for tasks that name none; others have theirs."""
    unlimited, limited = pool.send("sleep", 60), pool.send("sleep", 1.3, time_limit=10)
    with pytest.raises(TimeLimitExceeded, match="1"):
        unlimited.get(timeout=20)
    assert limited.get(timeout=20) == "slept"


def test_what_the_pool_cannot_do_is_said_at_the_start(pool: PoolScene):
    """There is no child process to replace; tasks go on."""
    assert "worker_max_tasks_per_child has no effect" in pool.worker.log
    assert [pool.send("add", n, n).get(timeout=20) for n in range(5)] == [0, 2, 4, 6, 8]


def test_a_task_that_waits_when_the_connection_is_lost_runs_once(stub: StubServer, tmp_path):
    """On kombu's own transport it comes again: the pool forgets it."""
    with pool_scene(stub, tmp_path) as scene:
        scene.start(2, arguments=("--prefetch-multiplier=8",), environment={"CHAOS_STOCK": "1"})
        both = fill(scene, 1.5)
        waiting = [scene.send("without_result", f"waiting-{n}") for n in range(4)]
        until_it_waits(scene, waiting[-1])
        for client in scene.redis.client_list():
            if client["cmd"] == "brpop":
                scene.redis.client_kill_filter(_id=client["id"])
        assert [result.get(timeout=20) for result in both] == ["slept"] * 2
        until(lambda: all(scene.notes(f"waiting-{n}") for n in range(4)), what="the waiting tasks")
        until(lambda: scene.redis.hlen("unacked") == 0, what="the end of all tasks")
        assert [scene.notes(f"waiting-{n}") for n in range(4)] == [["ran"]] * 4
