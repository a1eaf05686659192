"""An event loop in a thread: what Ctrl-C leaves behind."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from kagura_tasks.loops import LoopThread
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
