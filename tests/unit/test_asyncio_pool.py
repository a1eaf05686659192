"""The parts of the asyncio pool that need no worker."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from kagura_tasks.connections import async_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.result_backend import STORE
from kagura_tasks.result_writer import ResultWriter, Write, result_writer
from kagura_tasks.settings import RedisUrl
from kagura_tasks.worker.coroutine_tasks import refuse_coroutines
from kagura_tasks.worker.greenlets import Abandoned, GreenletCoroutine, SoftLimit, current_job
from kagura_tasks.worker.plain_threads import PlainThreads
from kagura_tasks.worker.pool import TaskPool, collect_less_often
from tests.support.wait import until


async def run(function: Any) -> GreenletCoroutine:
    """A job, to its end."""
    job = GreenletCoroutine(function)
    await asyncio.get_running_loop().create_task(job)
    return job


def job() -> GreenletCoroutine:
    """The job whose code asks."""
    found = current_job()
    assert found is not None
    return found


async def test_synchronous_code_waits_for_a_coroutine():
    """It gets its result or its error, and the loop goes on meanwhile."""
    seen: list[object] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("no")

    def waits() -> None:
        seen.append(job().wait(asyncio.sleep(0.05, "slept")))
        with pytest.raises(KeyError, match="no"):
            job().wait(fails())

    ticks = 0
    task = asyncio.create_task(run(waits))
    while not task.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert seen == ["slept"]
    assert ticks > 5
    assert current_job() is None


async def test_jobs_do_not_mix():
    """A hundred at once: each knows itself, in what it calls and after each wait."""
    wrong: list[int] = []

    def makes(number: int) -> Any:
        def runs() -> None:
            mine = job()
            for _ in range(3):
                got = mine.wait(asyncio.sleep(0.001 * (number % 5), number))
                if got != number or current_job() is not mine:
                    wrong.append(number)

        return runs

    await asyncio.gather(*(run(makes(number)) for number in range(100)))
    assert not wrong


@pytest.fixture
def collector() -> Generator[None]:
    """The garbage collector, switched off meanwhile, is afterwards as it was."""
    threshold = gc.get_threshold()
    gc.disable()
    yield
    gc.enable()
    gc.set_threshold(*threshold)


async def test_a_job_leaves_nothing_to_the_garbage_collector(collector: None):
    """What it held is gone with it: a thousand of them a second would keep the collector busy."""

    class Holder:
        def __init__(self) -> None:
            self.job = GreenletCoroutine(self.runs)

        def runs(self) -> None:
            job().wait(asyncio.sleep(0))

    holder = Holder()
    held = weakref.ref(holder)
    await asyncio.get_running_loop().create_task(holder.job)
    del holder
    assert held() is None


@pytest.mark.parametrize(("before", "after"), [(700, 40_000), (50_000, 50_000), (0, 0)])
def test_the_garbage_collector_waits_for_more_than_the_tasks_in_flight(collector: None, before: int, after: int):
    """A threshold that somebody chose is not lowered, and a collector that is switched off stays so."""
    gc.set_threshold(before, 10, 10)
    collect_less_often(100)
    assert gc.get_threshold() == (after, 10, 10)


async def test_an_error_of_the_function_is_the_tasks():
    """Nothing is swallowed."""

    def fails() -> None:
        job().wait(asyncio.sleep(0))
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await run(fails)


async def test_an_interruption_takes_the_place_of_a_cancellation():
    """What waits sees the soft limit, which asyncio's own means take for a cancellation; it may go on."""
    seen: list[object] = []

    async def careful() -> str:
        try:
            await asyncio.wait_for(asyncio.sleep(30), 20)
        except SoftTimeLimitExceeded as limit:
            seen.append(limit)
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
        return "cleaned up"

    made = GreenletCoroutine(lambda: seen.append(job().wait(careful())))
    task = asyncio.get_running_loop().create_task(made)
    await asyncio.sleep(0)
    made.interruption = SoftLimit(2.0)
    task.cancel()
    await task
    assert isinstance(seen[0], asyncio.CancelledError)
    assert seen[1] == "cleaned up"
    assert not task.cancelling()


async def test_an_abandoned_job_ends_whatever_it_awaited():
    """Also where the coroutine answers after all: nobody gets the answer."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "anyway"
        return "never"

    answers: list[str] = []
    made = GreenletCoroutine(lambda: answers.append(job().wait(stubborn())))
    task = asyncio.get_running_loop().create_task(made)
    await asyncio.sleep(0)
    made.is_abandoned = True
    task.cancel()
    with pytest.raises(Abandoned):
        await task
    assert not answers


def test_plain_threads_are_bounded_and_used_again():
    """So many functions at once, and no more; what waits has its turn."""
    threads = PlainThreads(2)
    gate, names = threading.Semaphore(0), set[str]()

    def waits() -> None:
        names.add(str(threading.get_ident()))
        gate.acquire()

    futures = [threads.submit(waits) for _ in range(4)]
    until(lambda: sum(future.running() for future in futures) == 2, what="two running functions")
    gate.release(4)
    assert [future.result(10) for future in futures] == [None] * 4
    assert len(names) == 2
    threads.stop()


def test_a_thread_of_a_forsaken_function_is_replaced():
    """It does not keep others from running. What had not begun is simply left out."""
    threads = PlainThreads(1)
    gate = threading.Event()
    hangs, waits = threads.submit(gate.wait), threads.submit(lambda: "ran")
    left_out = threads.submit(lambda: "never")
    until(hangs.running, what="the function that hangs")
    left_out.cancel()
    threads.forsake(left_out)
    assert threads.forsaken_total == 0
    threads.forsake(hangs)
    assert waits.result(10) == "ran"
    assert threads.forsaken_total == 1
    with pytest.raises(CancelledError):
        left_out.result(0)
    gate.set()
    assert hangs.result(10)
    threads.stop()


def plain_threads_alive() -> int:
    """Threads that run plain functions."""
    return sum(thread.name == "kagura-plain-task" for thread in threading.enumerate())


def test_a_thread_that_was_replaced_ends_with_its_function():
    """When what was forsaken has returned, no more functions run at once than before."""
    threads = PlainThreads(1)
    gate = threading.Event()
    before = plain_threads_alive()
    hangs = threads.submit(gate.wait)
    until(hangs.running, what="the function that hangs")
    threads.forsake(hangs)
    assert threads.submit(lambda: "ran").result(10) == "ran"
    assert plain_threads_alive() == before + 2
    gate.set()
    until(lambda: plain_threads_alive() == before + 1, what="one thread")
    assert threads.submit(lambda: "ran").result(10) == "ran"
    threads.stop()


def test_coroutine_tasks_are_refused_with_the_pools_name():
    """Whatever Celery has wrapped around them; plain tasks are left alone."""
    app = Celery("test", set_as_current=False)

    @app.task(name="one")
    async def one() -> None: ...

    @app.task(name="two", autoretry_for=(Exception,))
    async def two() -> None: ...

    @app.task(name="three")
    def three() -> int:
        return 3

    refuse_coroutines(app)
    for task in (one, two):
        with pytest.raises(ConfigurationError, match=r"CELERY_CUSTOM_WORKER_POOL=kagura_tasks\.worker\.pool:TaskPool"):
            task()
    assert three() == 3


def stored(number: int) -> Write:
    """A result of a task."""
    return Write(STORE, (f"result-{number}", f"taken-{number}", "counts"), (f'{{"n": {number}}}', 60))


@pytest.fixture
def pool() -> Generator[TaskPool]:
    """A pool without a worker around it."""
    with Celery("tests", set_as_current=False) as app:
        pool = TaskPool(100, app=app)
        pool.start()
        yield pool
        pool.stop()


def test_a_burst_of_tasks_lets_others_have_their_turn(pool: TaskPool):
    """The first of them go on before the last have started."""
    order: list[str] = []
    all_are_there = threading.Event()

    def first() -> None:
        all_are_there.wait(10)  # the loop takes nothing meanwhile
        asyncio.get_running_loop().call_soon(order.append, "goes on")

    pool.apply_async(first)
    for _ in range(99):
        pool.apply_async(order.append, ["starts"])
    all_are_there.set()
    until(lambda: len(order) == 100, what="all of them")
    assert order.index("goes on") < 50


async def test_results_of_one_moment_leave_together(redis_url: RedisUrl, client_of_redis: Any):
    """Hundreds that end together are a few messages to the server."""

    def messages() -> int:
        return client_of_redis.info("stats")["total_reads_processed"]

    writer = ResultWriter(async_client(redis_url, 5.0))
    await writer.store(stored(0))  # the server may not know the script yet
    before = messages()
    await asyncio.gather(*(writer.store(stored(number)) for number in range(500)))
    assert messages() - before <= 25
    assert client_of_redis.get("result-499") == b'{"n": 499}'


async def test_results_wait_for_redis():
    """While it is away nobody returns; then all do. Whoever does not wait any more holds nobody up."""
    with EmbeddedRedis(appendonly=True) as server:
        writer = result_writer(server.url, 5.0)
        await writer.store(stored(0))
        server.kill()
        waiting = [asyncio.create_task(writer.store(stored(number))) for number in range(1, 20)]
        gone = asyncio.create_task(writer.store(stored(20)))
        await asyncio.sleep(0.1)
        gone.cancel()
        assert not any(task.done() for task in waiting)
        await asyncio.to_thread(server.restart)
        await asyncio.gather(*waiting)
        assert gone.cancelled()
