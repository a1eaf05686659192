"""Event loops: what Ctrl-C leaves behind of one in a thread, and what each of several has of its own."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncGenerator
from contextlib import nullcontext

import pytest

from kagura_tasks.loops import LoopThread, PerLoop, at_loop_end
from tests.support.wait import until


async def seven() -> int:
    return 7


def test_a_start_that_is_interrupted_is_made_anew(monkeypatch: pytest.MonkeyPatch):
    """Nothing is left of the call that was interrupted, no warning either; the next one is answered."""
    thread = LoopThread("test")

    def interrupted() -> None:
        raise KeyboardInterrupt

    coroutine = seven()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            thread.run(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert thread.run(seven()) == 7

    loop = thread.loop
    loop.call_soon_threadsafe(loop.stop)
    until(lambda: not loop.is_running())
    loop.close()


def test_each_loop_has_one_of_its_own():
    """The same as long as it runs, until somebody takes it."""
    per_loop = PerLoop(list[int])

    async def mine() -> list[int]:
        here = per_loop.here()
        assert per_loop.here() is here
        assert per_loop.take() is here
        assert per_loop.take() is None
        return per_loop.here()

    assert asyncio.run(mine()) is not asyncio.run(mine())


def test_loops_that_have_ended_are_not_kept():
    """Though what they had holds them: who asks in a loop for each question must not fill the memory."""
    per_loop = PerLoop(asyncio.get_running_loop)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def asks() -> None:
        loops.append(weakref.ref(per_loop.here()))

    for _ in range(10):
        asyncio.run(asks())
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1


@pytest.mark.parametrize("how", ["returns", "raises", "is over"])
def test_who_runs_a_loop_closes_what_it_had(how: str):
    """Once, while the loop still runs, however its work ended and whatever was closed by hand before."""
    closed: list[bool] = []

    async def close() -> None:
        await asyncio.sleep(0)
        closed.append(asyncio.get_running_loop().is_running())

    async def work() -> None:
        kept.append(at_loop_end(close))
        if how == "raises":
            raise KeyError
        if how == "is over":
            await kept[0].aclose()

    kept: list[AsyncGenerator[None]] = []
    with nullcontext() if how != "raises" else pytest.raises(KeyError):
        asyncio.run(work())
    assert closed == [True]
