"""Threads for the plain functions of the asyncio pool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

log = logging.getLogger(__name__)

_Call = tuple[Future[Any], Callable[[], Any]]


class PlainThreads:
    """A bounded number of threads, started when they are needed.

    Python's own executor waits for its threads when the process ends; a function that never returns would keep a
    worker from stopping. These are daemons.

    Attributes:
        limit: Functions that run at once, at most. Those that nobody waits for any more do not count.
        forsaken_total: How many functions ran on though their task had ended.
    """

    def __init__(self, limit: int) -> None:
        """Start nothing yet."""
        self.limit = limit
        self.forsaken_total = 0
        self._forsaken = 0
        self._guard = threading.Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run the function when a thread is free; what comes of it."""
        future: Future[Any] = Future()
        self._calls.put((future, function))
        self._add_thread()
        return future

    def forsake(self, future: Future[Any]) -> None:
        """Nobody waits for it any more. Until its function ends, another thread may take its place."""
        if future.done():
            return
        log.error("a plain function runs on in its thread though its task has ended: what it waits in returns first")
        with self._guard:
            self.forsaken_total += 1
            self._forsaken += 1
        future.add_done_callback(self._has_returned)
        if not self._calls.empty():
            self._add_thread()

    def stop(self) -> None:
        """Let the threads end when they have nothing more to do."""
        for _ in range(self._count):
            self._calls.put(None)

    def _has_returned(self, _: Future[Any]) -> None:
        with self._guard:
            self._forsaken -= 1

    def _add_thread(self) -> None:
        if self._idle.acquire(blocking=False):
            return
        with self._guard:
            if self._count >= self.limit + self._forsaken:
                return
            self._count += 1
        threading.Thread(target=self._serve, name="kagura-plain-task", daemon=True).start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                _fulfil(future, function)
            # A thread that waits must not keep a task's arguments and result alive.
            del call, future, function
            if self._is_surplus():
                return
            self._idle.release()

    def _is_surplus(self) -> bool:
        """This thread was replaced while a function would not end, which it has by now: there is one too many."""
        with self._guard:
            if self._count <= self.limit + self._forsaken:
                return False
            self._count -= 1
            return True


def _fulfil(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 (it belongs to whoever waits)
        future.set_exception(error)
    else:
        future.set_result(result)
