"""Celery's promises on the asyncio pool, for coroutines and for plain functions."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from celery import chain, chord, group

from kagura_tasks.worker.coroutine_tasks import POOL
from tests.support.llm import StubServer
from tests.support.pool import APP, PoolScene, pool_scene
from tests.support.wait import until


@pytest.fixture(scope="module")
def pool(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolScene]:
    """One worker for all these tests, which break nothing."""
    with pool_scene(stub_server, tmp_path_factory.mktemp("pool")) as scene:
        scene.start(1000)
        yield scene


@pytest.mark.parametrize("name", ["who", "who_plain"])
def test_each_task_knows_who_it_is(pool: PoolScene, name: str):
    """`current_task`, `self.request` and context variables are the task's own, before it waits and afterwards."""
    results = [pool.send(name, 0.01 * (n % 3)) for n in range(40)]
    for result in results:
        assert result.get(timeout=20) == [result.id] * 6


@pytest.mark.parametrize("name", ["retried", "retried_plain", "retried_by_celery"])
def test_a_retry_is_celerys(pool: PoolScene, name: str):
    """`self.retry` and `autoretry_for`: the task runs again under its id, and then succeeds."""
    assert pool.send(name, 2).get(timeout=20) == 2


def test_retries_come_to_an_end(pool: PoolScene):
    """After `max_retries` the task's own error is its result."""
    with pytest.raises(ConnectionError, match="try 2"):
        pool.send("retried_by_celery", 9).get(timeout=20)


def test_a_chain(pool: PoolScene):
    """Coroutines and plain functions follow each other."""
    assert chain(pool.s("add", 1, 2), pool.s("add_plain", 3), pool.s("add", 4))().get(timeout=20) == 10


def test_a_chord(pool: PoolScene):
    """The body runs once, with all results."""
    header = [pool.s("add" if n % 2 else "add_plain", n, 1) for n in range(20)]
    assert chord(header, pool.s("total"))().get(timeout=20) == sum(range(20)) + 20


def test_a_chord_whose_header_fails(pool: PoolScene):
    """The chord fails with it."""
    with pytest.raises(Exception, match="on purpose"):
        chord([pool.s("add", 1, 1), pool.s("fail")], pool.s("total"))().get(timeout=20)


@pytest.mark.parametrize("name", ["add", "add_plain"])
def test_starmap(pool: PoolScene, name: str):
    """Celery's task that calls another one for each item awaits each."""
    found = pool.app.send_task("celery.starmap", kwargs={"task": pool.s(name), "it": [[1, 2], [3, 4]]})
    assert found.get(timeout=20) == [3, 7]


def test_a_link(pool: PoolScene):
    """It gets the result."""
    result = pool.send("add", 1, 2, link=pool.s("tell", "link-1"))
    assert result.get(timeout=20) == 3
    until(lambda: pool.notes("link-1") == ["3"], what="the link")


def test_an_errback(pool: PoolScene):
    """It gets the task's request and its error."""
    result = pool.send("fail", link_error=pool.s("tell_of_error", "errback-1"))
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=20)
    until(lambda: pool.notes("errback-1"), what="the errback")
    assert pool.notes("errback-1")[0] == f"{result.id} ValueError('on purpose')"


@pytest.mark.parametrize(("name", "args", "outcome"), [("add", (1, 2), "task_success"), ("fail", (), "task_failure")])
def test_signals_see_their_task(pool: PoolScene, name: str, args: tuple[int, ...], outcome: str):
    """In a receiver `current_task` is the one that the signal is about, while others run."""
    results = [pool.send(name, *args) for _ in range(10)]
    for result in results:
        result.get(timeout=20, propagate=False)
        until(lambda: len(pool.notes(f"signals {result.id}")) == 3, what="the signals")  # noqa: B023
        assert pool.notes(f"signals {result.id}") == ["task_prerun", outcome, "task_postrun"]


def test_a_task_class_of_ones_own(pool: PoolScene):
    """`__call__`, `before_start`, `on_success` and `after_return` are called, for their task."""
    result = pool.send("hooked")
    assert result.get(timeout=20) is True
    until(lambda: len(pool.notes(f"hooks {result.id}")) == 4, what="the hooks")
    assert pool.notes(f"hooks {result.id}") == [
        "before_start True",
        "call",
        "on_success True True",
        "after_return SUCCESS",
    ]


def test_a_result_that_nobody_wants(pool: PoolScene):
    """`ignore_result`: it runs, and nothing is stored."""
    result = pool.send("without_result", "ignored-1")
    until(lambda: pool.notes("ignored-1") == ["ran"], what="the task")
    pool.until_settled()
    assert not pool.redis.exists(f"celery-task-meta-{result.id}")


def test_a_task_is_acknowledged_after_its_result_is_stored(pool: PoolScene):
    """While it runs the broker has its message; when that is gone the result is there."""
    pool.until_settled()
    result = pool.send("sleep", 0.3)
    until(lambda: pool.redis.hlen("unacked") == 1, what="the running task")
    until(lambda: pool.redis.hlen("unacked") == 0, what="the acknowledged task")
    assert pool.redis.exists(f"celery-task-meta-{result.id}")


def test_tasks_can_be_called_as_functions(pool: PoolScene):
    """In a task, another one is the function that was decorated: a coroutine is awaited, a plain one returns."""
    assert pool.send("calls_others").get(timeout=20) == [3, 7, 11]


def test_what_asyncio_brings_along(pool: PoolScene):
    """gather, TaskGroup, timeout, wait_for and to_thread do in a task what they do anywhere."""
    assert pool.send("in_parallel").get(timeout=20) == [1, 2, 3, -1, -2, 0, 1, 2, "nobody"]


@pytest.mark.parametrize(
    ("name", "message"), [("runs_a_loop", "cannot be called from a running event loop"), ("cancels_itself", "its own")]
)
def test_a_mistake_is_the_tasks_own(pool: PoolScene, name: str, message: str):
    """asyncio.run in a coroutine, or a cancellation of itself: the task fails, and says why."""
    with pytest.raises(RuntimeError, match=message):
        pool.send(name).get(timeout=20)


def test_a_task_that_exits_ends_nobody(pool: PoolScene):
    """SystemExit loses the task as it would lose a child of prefork: it is tried again, and then a dead letter."""
    other = pool.send("sleep", 0.5)
    with pytest.raises(Exception, match="killed its worker 3 times"):
        pool.send("exits").get(timeout=20)
    assert other.get(timeout=20) == "slept"
    pool.until_settled()


def test_a_task_without_memory_ends_nobody(pool: PoolScene):
    """It fails with its error, and its message is done with."""
    with pytest.raises(MemoryError, match="on purpose"):
        pool.send("exhausts").get(timeout=20)
    pool.until_settled()


def test_a_plain_function_does_not_block_the_loop(pool: PoolScene):
    """While plain functions sleep in their threads, coroutines come and go."""
    plain = [pool.send("sleep_plain", 1.5) for _ in range(10)]
    until(lambda: pool.stats()["running"] >= 10, what="the plain functions")
    assert group(pool.s("add", n, n) for n in range(20))().get(timeout=20)[-1] == 38
    assert not any(result.ready() for result in plain)
    assert [result.get(timeout=20) for result in plain] == ["slept"] * 10


def test_waiting_for_a_thread_is_no_part_of_a_time_limit(pool: PoolScene):
    """64 functions have the threads for longer than the next one may take, which runs to its end all the same."""
    many = [pool.send("sleep_plain", 1.5) for _ in range(64)]
    until(lambda: pool.stats()["running"] >= 64, what="the plain functions")
    assert pool.send("sleep_plain", 0.1, time_limit=0.8).get(timeout=20) == "slept"
    assert [result.get(timeout=20) for result in many] == ["slept"] * 64


def test_a_task_that_blocks_the_loop_is_named(pool: PoolScene):
    """After a second: a line with where it is, and a count in `inspect stats`. The worker goes on."""
    before = pool.stats()["loop-blocked"]
    pool.send("blocks", 1.8).get(timeout=20)
    assert pool.stats()["loop-blocked"] > before
    assert "a task has blocked the event loop for " in pool.worker.log
    assert "pool_app.py" in pool.worker.log
    assert "in blocks" in pool.worker.log


def test_rate_limits(pool: PoolScene):
    """Five a second: the first ones at once, the others in time."""
    ran_at = sorted(result.get(timeout=20) for result in [pool.send("rare") for _ in range(8)])
    assert 0.3 < ran_at[-1] - ran_at[0] < 4


def test_eta(pool: PoolScene):
    """A countdown is waited for."""
    sent = time.monotonic()
    assert pool.send("add", 1, 2, countdown=1.0).get(timeout=20) == 3
    assert time.monotonic() - sent > 0.9


def test_a_thousand_tasks_in_flight(pool: PoolScene):
    """One process holds them all at once: the last one lets the others go."""
    results = [pool.send("waits_at_gate", ignore_result=n % 100 != 0) for n in range(999)]
    until(lambda: pool.stats()["running"] == 999, what="all but one")
    assert pool.send("opens_gate").get(timeout=30) == 999
    assert [result.get(timeout=30) for result in results[::100]] == ["passed"] * 10
    pool.until_settled()


def test_inspect_knows_what_runs(pool: PoolScene):
    """`active` names the task; `stats` the pool, its limit and its loop."""
    result = pool.send("sleep", 1.0)
    until(lambda: result.id in str(pool.app.control.inspect(timeout=0.3).active()), what="the active task")
    stats = pool.stats()
    assert stats["implementation"] == "kagura_tasks.worker.pool:TaskPool"
    assert stats["max-concurrency"] == 1000
    assert {"running", "abandoned", "loop", "loop-blocked"} <= set(stats)


def test_an_async_task_on_another_pool_is_refused(stub: StubServer, tmp_path):
    """A worker of threads says at its start, and each such task says, which pool it needs. Plain tasks run."""
    with pool_scene(stub, tmp_path) as scene:
        worker = scene.start(4, pool="threads")
        assert f"the task {APP}.add is an `async def`" in worker.log
        for name, args in (("add", (1, 2)), ("retried_by_celery", (0,))):
            with pytest.raises(Exception, match=f"CELERY_CUSTOM_WORKER_POOL={POOL}"):
                scene.send(name, *args).get(timeout=20)
        assert scene.send("add_plain", 1, 2).get(timeout=20) == 3
