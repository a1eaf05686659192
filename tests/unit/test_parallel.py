"""The RFC's parallel functions: order, bounds, and no task left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kagura_tasks import parallel_gather, parallel_llm_calls, parallel_map
from kagura_tasks.errors import InvalidRequest


class Probe:
    """An async function that says how it was called: how many at once, and how each call ended."""

    def __init__(self) -> None:
        self.running = self.peak = 0
        self.begun: list[Any] = []
        self.cancelled: list[Any] = []
        self.gate = asyncio.Event()

    async def passes(self, item: Any) -> Any:
        """The item, after others had their turn."""
        return await self._call(item, asyncio.sleep(0))

    async def waits(self, item: Any) -> Any:
        """The item, when the gate opens."""
        return await self._call(item, self.gate.wait())

    async def _call(self, item: Any, waiting: Any) -> Any:
        self.begun.append(item)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await waiting
            return item
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a clean-up that has to be awaited
            self.cancelled.append(item)
            raise
        finally:
            self.running -= 1


async def fails(error: Exception, after: int = 2) -> None:
    """Raises, after others had their turn."""
    for _ in range(after):
        await asyncio.sleep(0)
    raise error


def others() -> list[asyncio.Task[Any]]:
    """The tasks that run beside the test."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_results_come_in_the_order_of_the_calls():
    """parallel_llm_calls takes functions with their arguments, as the RFC has it; the slowest may be first."""

    async def answer(text: str, turns: int, *, suffix: str = "") -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return text + suffix

    found = await parallel_llm_calls((answer, ("a", 5), {}), (answer, ("b",), {"turns": 1, "suffix": "!"}))
    assert found == ["a", "b!"]
    assert await parallel_llm_calls() == []


async def test_gather_takes_whatever_can_be_awaited():
    """Coroutines, tasks, futures, and objects that are awaitable themselves."""

    class Result:
        def __await__(self):
            return asyncio.sleep(0, "object").__await__()

    future = asyncio.get_running_loop().create_future()
    future.set_result("future")
    task = asyncio.create_task(asyncio.sleep(0, "task"))
    found = await parallel_gather(asyncio.sleep(0, "coroutine"), task, future, Result())
    assert found == ["coroutine", "task", "future", "object"]


async def test_all_calls_run_at_the_same_time():
    """Each waits for the other."""
    probe = Probe()

    async def opens() -> None:
        await asyncio.sleep(0)
        probe.gate.set()

    assert await parallel_gather(probe.waits(1), probe.waits(2), opens()) == [1, 2, None]
    assert probe.peak == 2


async def test_the_first_failure_is_raised_as_it_is_when_all_others_have_ended():
    """No ExceptionGroup, and no orphan: what ran is cancelled, and its clean-up awaited."""
    probe = Probe()
    with pytest.raises(ValueError, match="the first") as caught:
        await parallel_gather(
            probe.waits(1), fails(ValueError("the first")), fails(KeyError("later"), 9), probe.waits(2)
        )
    assert (sorted(probe.cancelled), probe.running, others()) == ([1, 2], 0, [])
    assert caught.value.__cause__ is None


async def test_whoever_gives_up_waiting_cancels_all():
    """A timeout around them ends them, too."""
    probe = Probe()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await parallel_gather(probe.waits(1), probe.waits(2))
    assert (sorted(probe.cancelled), others()) == ([1, 2], [])


async def test_coroutines_that_were_never_started_are_closed():
    """Where a later call cannot even be made, nobody warns of the earlier ones (warnings are errors here)."""
    probe = Probe()
    with pytest.raises(TypeError, match="unexpected keyword"):
        await parallel_llm_calls((probe.passes, (1,), {}), (probe.passes, (2,), {"wrong": 1}))
    with pytest.raises(TypeError, match="int cannot be awaited"):
        await parallel_gather(probe.passes(1), 7)
    with pytest.raises(ValueError, match="at once"):
        await parallel_gather(fails(ValueError("at once"), after=0), probe.passes(1))
    assert probe.begun == [1]


async def test_a_map_keeps_the_order_and_the_bound():
    """At most max_concurrent at a time, and as many as that."""
    probe = Probe()
    assert await parallel_map(probe.passes, range(20), max_concurrent=3) == list(range(20))
    assert probe.peak == 3
    assert await parallel_map(probe.passes, []) == []


async def test_a_map_takes_an_item_when_its_turn_comes():
    """A million items are no million tasks: with all slots busy, none is taken from the iterator."""
    probe = Probe()
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in range(1_000_000):
            taken.append(number)
            yield number

    running = asyncio.create_task(parallel_map(probe.waits, endless(), max_concurrent=4))
    for _ in range(50):
        await asyncio.sleep(0)
    assert (taken, probe.begun, len(others())) == ([0, 1, 2, 3], [0, 1, 2, 3], 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (sorted(probe.cancelled), others()) == ([0, 1, 2, 3], [])


async def test_a_map_reads_an_async_iterable():
    """Items may come from a stream."""

    async def rows() -> AsyncIterator[str]:
        for row in ("a", "b", "c"):
            await asyncio.sleep(0)
            yield row

    assert await parallel_map(Probe().passes, rows(), max_concurrent=2) == ["a", "b", "c"]


async def test_a_failed_call_ends_the_map():
    """The running ones are cancelled and awaited, no further item is taken, and the plain error comes out."""
    probe = Probe()

    async def call(item: int) -> None:
        await (fails(LookupError("item 2")) if item == 2 else probe.waits(item))

    items = iter(range(1000))
    with pytest.raises(LookupError, match="item 2"):
        await parallel_map(call, items, max_concurrent=3)
    assert (sorted(probe.cancelled), others(), next(items)) == ([0, 1], [], 3)


async def test_items_that_fail_end_the_map():
    """An error of the iterable comes out as it is, also where calls fail while they are cancelled."""

    async def call(item: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("a consequence")

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the cause")

    with pytest.raises(OSError, match="the cause"):
        await parallel_map(call, items(), max_concurrent=5)
    assert others() == []


async def test_a_call_that_was_cancelled_by_itself_is_no_result():
    """As with asyncio.gather, it is CancelledError, and never a hole among the results."""

    async def call(item: int) -> int:
        future = asyncio.get_running_loop().create_future()
        if item == 1:
            future.cancel()
            await future
        return item

    with pytest.raises(asyncio.CancelledError):
        await parallel_map(call, range(9), max_concurrent=1)
    with pytest.raises(asyncio.CancelledError):
        await parallel_gather(call(0), call(1), call(2))


@pytest.mark.parametrize("bound", [0, -1])
async def test_a_map_without_a_slot_is_refused(bound: int):
    """It would wait for ever."""
    with pytest.raises(InvalidRequest, match="max_concurrent"):
        await parallel_map(Probe().passes, [1], max_concurrent=bound)
