"""One event loop in a thread of its own, so that synchronous code can share connections with asynchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from kagura_tasks.forks import watch_forks

T = TypeVar("T")

#: Longest time (s) for which a waiting thread does not look whether a signal has come.
_LOOK_UP_S: Final = 0.25


class PerLoop(Generic[T]):
    """What each event loop has one of. It may hold its loop, so that weak references would keep both for ever."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Take what makes one."""
        self._make = make
        self._by_loop: dict[asyncio.AbstractEventLoop, T] = {}

    def here(self) -> T:
        """The running loop's. What belongs to loops that are closed goes when a new one asks."""
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            for closed in [one for one in list(self._by_loop) if one.is_closed()]:
                self._by_loop.pop(closed, None)
            found = self._by_loop[loop] = self._make()
        return found

    def take(self) -> T | None:
        """The running loop's, if it has one, which is forgotten."""
        return self._by_loop.pop(asyncio.get_running_loop(), None)

    def clear(self) -> None:
        """Forget all."""
        self._by_loop.clear()


def at_loop_end(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Let the running loop await this when `asyncio.run`, or whatever else runs it, ends it. Keep what is returned.

    Asyncio has no callback for that, but closes the asynchronous generators that are open, to which it holds weak
    references: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.shutdown_asyncgens
    A loop that is closed without it, or never, does not call this.
    """
    generator = _until_the_end(close)
    with suppress(StopIteration):  # as far as its yield, which needs nobody to wait
        generator.__anext__().send(None)
    return generator


async def _until_the_end(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await close()


class LoopThread:
    """A running event loop. Starts when first used; a forked child gets one of its own."""

    def __init__(self, name: str) -> None:
        """Take the thread's name. Nothing is started yet."""
        self._name = name
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        watch_forks(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        with self._guard:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name=self._name, daemon=True).start()
                self._loop = loop  # only now: a start that Ctrl-C interrupts is made anew by the next call
            return self._loop

    @property
    def is_started(self) -> bool:
        """Somebody has used it in this process."""
        return self._loop is not None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start the coroutine; the future belongs to the calling thread's world."""
        try:
            loop = self.loop
        except BaseException:
            coroutine.close()  # Ctrl-C while the thread starts: Python would warn that nobody awaited it
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. Interrupting the wait cancels the coroutine."""
        future = self.submit(coroutine)
        try:
            return outcome(future)
        except BaseException:
            future.cancel()
            raise

    def on_fork(self) -> None:
        """See Inherited: the parent's thread does not exist in a forked child, and its lock may be held for ever."""
        self._guard = threading.Lock()
        self._loop = None


def outcome(future: Future[T]) -> T:
    """The future's result, waited for so that Ctrl-C ends the wait, whenever it comes.

    A signal that comes in the moment before a thread blocks does not wake it: Python would handle it after the wait.
    """
    while not wait([future], _LOOK_UP_S).done:
        pass
    return future.result()
