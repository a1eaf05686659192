"""One task in the asyncio pool, from the moment it has a slot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from celery.concurrency.base import apply_target
from celery.exceptions import SoftTimeLimitExceeded

from kagura_tasks.worker.greenlets import Abandoned, GreenletCoroutine

log = logging.getLogger(__name__)

#: Seconds that an abandoned coroutine has to clean up before its slot is given to another task.
_CLEAN_UP_S: Final = 1.0

Call = tuple[Callable[..., Any], Any, Any]


class TimeLimits(NamedTuple):
    """How long a task may run (s), and who is told: `told(soft, timeout)`."""

    soft_s: float | None
    hard_s: float | None
    told: Callable[..., Any] | None


class PoolJob:
    """A task in the pool.

    Attributes:
        number: What Celery knows it by, in place of a process id.
        is_abandoned: Nobody wants its result any more.
    """

    def __init__(
        self,
        number: int,
        call: Call,
        accepted: Callable[..., Any] | None,
        done: Callable[..., Any] | None,
        limits: TimeLimits,
        release: Callable[[PoolJob], None],
    ) -> None:
        """Take what to call, and whom to tell of its start, its end, and its free slot."""
        self.number = number
        self.is_abandoned = False
        self._call = call
        self._accepted = accepted
        self._done = done
        self._limits = limits
        self._release = release
        self._timers: list[asyncio.TimerHandle] = []
        self._coroutine = GreenletCoroutine(self._run)
        self._task: asyncio.Task[None] | None = None

    def terminate(self, signal: int | None = None) -> None:
        """Celery asks the pool to terminate it, and then the job: the pool has done it."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start, on the loop's thread."""
        soft_s, hard_s, _ = self._limits
        if soft_s:
            self._timers.append(loop.call_later(soft_s, self._soften))
        if hard_s:
            self._timers.append(loop.call_later(hard_s, self._end_hard))
        self._task = loop.create_task(self._coroutine)
        self._task.add_done_callback(self._ended)

    def abandon(self) -> None:
        """End it without a result. On the loop's thread."""
        if self.is_abandoned or self._task is None or self._task.done():
            return
        self.is_abandoned = self._coroutine.is_abandoned = True
        self._coroutine.interruption = None
        self._task.cancel()
        self._task.get_loop().call_later(_CLEAN_UP_S, self._give_up)

    def _run(self) -> None:
        target, args, kwargs = self._call
        apply_target(target, args, kwargs, self._tell, self._accepted, pid=self.number)

    def _tell(self, result: Any) -> None:
        if not self.is_abandoned and self._done is not None:
            self._done(result)

    def _soften(self) -> None:
        """The soft limit: the coroutine gets SoftTimeLimitExceeded where it waits, and may clean up, or answer."""
        if self._task is not None and not self._task.done() and not self.is_abandoned:
            self._tell_of_limit(soft=True, limit_s=self._limits.soft_s)
            self._coroutine.interruption = SoftTimeLimitExceeded(self._limits.soft_s)
            self._task.cancel()

    def _end_hard(self) -> None:
        """The hard limit: it ends now, and is recorded as failed."""
        if self._task is None or self._task.done() or self.is_abandoned:
            return
        self.abandon()
        # Recording takes a word with Redis: in a greenlet of its own, so that the loop goes on.
        chore = GreenletCoroutine(lambda: self._tell_of_limit(soft=False, limit_s=self._limits.hard_s))
        self._chore = self._task.get_loop().create_task(chore)

    def _tell_of_limit(self, *, soft: bool, limit_s: float | None) -> None:
        if self._limits.told is not None:
            self._limits.told(soft, limit_s)

    def _give_up(self) -> None:
        """It would not end, and cannot be made to: its slot goes to another, and its result is refused."""
        if self._task is not None and not self._task.done():
            log.error("a task swallows its cancellation: it is left to itself, and its result will be refused")
            self._release(self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for timer in self._timers:
            timer.cancel()
        self._release(self)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Abandoned):
            log.error("a job of the pool failed outside its task", exc_info=error)
