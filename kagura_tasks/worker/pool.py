"""Celery's asyncio pool: one event loop a process, hundreds of tasks in flight on it.

Named by Celery's own setting, `worker_pool = "kagura_tasks.worker.pool:TaskPool"`. Celery's tracer runs unchanged, in a
greenlet for each task, so retries, chords, links, signals, late acknowledgement and `current_task` are Celery's. An
`async def` task is awaited; a plain one runs in a thread, so that it cannot block the loop.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from celery.concurrency.base import BasePool

from kagura_tasks import parking
from kagura_tasks.connections import close_async_clients
from kagura_tasks.settings import load_settings
from kagura_tasks.worker.greenlets import current_job
from kagura_tasks.worker.loop_watch import LoopWatch
from kagura_tasks.worker.plain_threads import PlainThreads
from kagura_tasks.worker.pool_job import Listeners, PoolJob, TimeLimits
from kagura_tasks.worker.task_bodies import adapt

log = logging.getLogger(__name__)

#: Threads for plain functions, at most.
_MOST_THREADS: Final = 64

#: A loop that a task blocks hears of nothing. So long (s) it is waited for where it has to end.
_STOP_TIMEOUT_S: Final = 3.0

#: Tasks that are started in one turn of the loop. If all were that come at once, they would go through each of their
#: steps together, call at the same moment, and have their answers at the same moment: in between, the CPU would idle.
_STARTS_A_TURN: Final = 16

#: What a task in flight is made of, roughly: so many objects that the garbage collector knows.
_OBJECTS_A_TASK: Final = 400

#: What Celery asks of a pool of processes, and the settings behind it.
_OF_CHILDREN: Final = {
    "maxtasksperchild": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
}

_StockPool: Any = BasePool


class TaskPool(_StockPool):
    """Runs tasks on one event loop."""

    #: For those who look whether a pool can run an `async def`.
    awaits_coroutines = True

    signal_safe = False
    body_can_be_buffer = True

    def on_start(self) -> None:
        """See Celery."""
        for option, setting in _OF_CHILDREN.items():
            if self.options.get(option):
                log.warning("%s has no effect: this pool has no child processes that could be replaced", setting)
        collect_less_often(self.limit)
        self._guard = threading.Condition()
        self._inbox: deque[PoolJob] = deque()
        self._jobs: dict[int, PoolJob] = {}
        self._is_pumping = False
        self._numbers = itertools.count(1)
        self._left_total = 0
        self._ends_at = float("inf")
        self._threads = PlainThreads(min(self.limit, _MOST_THREADS))
        for task in self.app.tasks.values():
            adapt(task, self._threads)
        parking.provide(_find_awaiter)
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kagura-pool", daemon=True)
        self._thread.start()
        # Celery's current app is a thread's own, and the tracer looks its tasks up there.
        self._loop.call_soon_threadsafe(self.app.set_current)
        self._watch = LoopWatch(self._loop, self._thread, load_settings().loop_blocked_s)
        self._watch.start()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> PoolJob:
        """See Celery."""
        # `celery worker --time-limit` comes as an option; the setting is in the task.
        soft_s = soft_timeout or self.options.get("soft_timeout")
        hard_s = timeout or self.options.get("timeout")
        limits = TimeLimits(soft_s, hard_s, timeout_callback)
        listeners = Listeners(accept_callback, callback, error_callback)
        job = PoolJob(next(self._numbers), (target, args, kwargs), listeners, limits, self._release)
        with self._guard:
            self._inbox.append(job)
        self._wake()
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """See Celery; `pid` is what the job was accepted with. Its connections are closed, its result is dropped."""
        self._loop.call_soon_threadsafe(self._abandon, pid)

    def flush(self) -> None:
        """See Celery. The connection is lost: what has not begun comes again, and would run twice."""
        with self._guard:
            kept = [job for job in self._inbox if job.is_kept]
            self._inbox.clear()
            self._inbox.extend(kept)

    def hand_back(self) -> int:
        """Abandon all that runs, so that its messages go to other workers when this one stops; how many there were."""
        with self._guard:
            self._inbox.clear()
            running = list(self._jobs)
            self._ends_at = time.monotonic() + _STOP_TIMEOUT_S
            self._guard.notify_all()
        for number in running:
            self._loop.call_soon_threadsafe(self._abandon, number)
        return len(running)

    def grow(self, n: int = 1) -> None:
        """See Celery."""
        self.limit += n
        self._threads.limit = min(self.limit, _MOST_THREADS)
        self._wake()

    def shrink(self, n: int = 1) -> None:
        """See Celery. What runs goes on."""
        self.limit = max(1, self.limit - n)

    def on_stop(self) -> None:
        """See Celery. What runs comes to its end; what was not started goes back to its queue."""
        with self._guard:
            self._inbox.clear()
            while self._jobs and (left_s := self._ends_at - time.monotonic()) > 0:
                # Waiting knows no infinity.
                self._guard.wait(min(left_s, _STOP_TIMEOUT_S))
        self._end()

    def on_terminate(self) -> None:
        """See Celery."""
        self.hand_back()
        self.on_stop()

    def _end(self) -> None:
        if not self._thread.is_alive():
            return
        self._watch.stop()
        closing = asyncio.run_coroutine_threadsafe(_close(self._loop), self._loop)
        try:
            closing.result(_STOP_TIMEOUT_S / 2)
        except TimeoutError:
            log.warning("the event loop did not end in time")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT_S / 2)
        self._threads.stop()

    def _wake(self) -> None:
        """Let the loop look into the inbox, once for all that comes until it does."""
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon_threadsafe(self._pump)

    def _pump(self) -> None:
        """Start what has a slot: a few now, and more when these have come to where they wait."""
        for _ in range(_STARTS_A_TURN):
            with self._guard:
                self._is_pumping = bool(self._inbox) and len(self._jobs) < self.limit
                if not self._is_pumping:
                    return
                job = self._inbox.popleft()
                self._jobs[job.number] = job
            job.start(self._loop)
        self._loop.call_soon(self._pump)

    def _abandon(self, number: int) -> None:
        if (job := self._jobs.get(number)) is not None:
            job.abandon()

    def _release(self, job: PoolJob) -> None:
        """A job ended, or was abandoned: its slot is free."""
        with self._guard:
            if self._jobs.pop(job.number, None) is not None:
                self._left_total += job.is_left
            self._guard.notify_all()
            has_more = bool(self._inbox)
        if has_more:
            self._wake()

    def _get_info(self) -> dict[str, Any]:
        stock: Any = super()
        return {
            **stock._get_info(),
            "processes": [os.getpid()],
            "running": len(self._jobs),
            "abandoned": self._left_total + self._threads.forsaken_total,
            "loop": type(self._loop).__module__,
            "loop-blocked": self._watch.blocked_total,
        }


def collect_less_often(tasks: int) -> None:
    """Let Python's garbage collector wait until more is new than so many tasks in flight are made of.

    It looks at what is new, time and again: here that is tasks that run, and hardly any garbage. With hundreds of them
    and its own threshold of 700 objects it takes a seventh of the CPU. One that is switched off stays so.
    """
    threshold, *older = gc.get_threshold()
    if threshold:
        gc.set_threshold(max(threshold, tasks * _OBJECTS_A_TASK), *older)


def _find_awaiter() -> parking.Awaiter | None:
    job = current_job()
    return None if job is None else job.wait


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _close(loop: asyncio.AbstractEventLoop) -> None:
    """End what is left on the loop."""
    await close_async_clients()
    left = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.wait(left, timeout=1) if left else None
    await loop.shutdown_asyncgens()
