"""One task in the asyncio pool, from the moment it has a slot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit

from kagura_tasks.worker.greenlets import Abandoned, GreenletCoroutine, SoftLimit

log = logging.getLogger(__name__)

#: Seconds that an abandoned coroutine has to clean up before its slot is given to another task.
_CLEAN_UP_S: Final = 1.0

Call = tuple[Callable[..., Any], Any, Any]
Tell = Callable[..., Any]


class TimeLimits(NamedTuple):
    """How long a task may run (s), and who is told: `told(soft, timeout)`."""

    soft_s: float | None
    hard_s: float | None
    told: Callable[..., Any] | None


class Listeners(NamedTuple):
    """Whom Celery wants to be told, all optional: of its start, its outcome, and an end without one."""

    accepted: Tell | None
    done: Tell | None
    lost: Tell | None

    @property
    def request(self) -> Any:
        """Celery's, whose methods they are; None where somebody else uses the pool."""
        return getattr(self.accepted, "__self__", None)


class PoolJob:
    """A task in the pool.

    Attributes:
        number: What Celery knows it by, in place of a process id.
        is_abandoned: Nobody wants its result any more.
        is_left: It was abandoned, and would not end.
    """

    def __init__(
        self,
        number: int,
        call: Call,
        listeners: Listeners,
        limits: TimeLimits,
        release: Callable[[PoolJob], None],
    ) -> None:
        """Take what to call, whom to tell, and what gives its slot to another."""
        self.number = number
        self.is_abandoned = self.is_left = False
        self._call = call
        self._listeners = listeners
        self._limits = limits
        self._release = release
        self._timers: list[asyncio.TimerHandle] = []
        self._coroutine = GreenletCoroutine(self._run)
        self._task: asyncio.Task[None] | None = None

    def terminate(self, signal: int | None = None) -> None:
        """Celery asks the pool to terminate it, and then the job: the pool has done it."""

    @property
    def is_kept(self) -> bool:
        """Its message stays with this worker when the connection is lost: our transport does that."""
        request = self._listeners.request
        return request is None or hasattr(request.message.channel, "holdings")

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
        request = self._listeners.request
        # Revoked, or expired, while it waited for its slot: Celery looks once, before that.
        if request is not None and request.revoked():
            return
        target, args, kwargs = self._call
        if self._listeners.accepted is not None:
            self._listeners.accepted(self.number, time.monotonic())
        try:
            outcome = target(*(args or ()), **(kwargs or {}))
        except (Abandoned, GreenletExit):
            raise
        except BaseException as error:  # noqa: BLE001 (SystemExit, say: it must not end the event loop)
            self._tell_of_loss(error)
        else:
            self._tell(self._listeners.done, outcome)

    def _tell(self, listener: Tell | None, outcome: Any) -> None:
        if self.is_abandoned or listener is None:
            return
        try:
            listener(outcome)
        except MemoryError:
            # The task's own, which Celery would end a whole worker by. Its result is stored.
            self._listeners.request.acknowledge()
            raise

    def _tell_of_loss(self, error: BaseException) -> None:
        """The tracer had no answer to it. Other pools lose a process by it, and Celery hears of that."""
        log.error("a task ended with %s", type(error).__name__)
        try:
            raise WorkerLostError(repr(error)) from error
        except WorkerLostError:
            self._tell(self._listeners.lost, ExceptionInfo())

    def _soften(self) -> None:
        """The soft limit: its body gets SoftTimeLimitExceeded where it waits, and may clean up, or answer."""
        if not self._is_reached(self._limits.soft_s, self._soften):
            return
        self._tell_of_limit(soft=True, limit_s=self._limits.soft_s)
        if self._coroutine.in_thread is not None:
            self._coroutine.in_thread.interrupt(SoftTimeLimitExceeded)
        elif self._task is not None:
            self._coroutine.interruption = SoftLimit(self._limits.soft_s)
            self._task.cancel()

    def _end_hard(self) -> None:
        """The hard limit: it ends now, and is recorded as failed."""
        if not self._is_reached(self._limits.hard_s, self._end_hard):
            return
        self.abandon()
        # Recording takes a word with Redis: in a greenlet of its own, so that the loop goes on.
        chore = GreenletCoroutine(lambda: self._tell_of_limit(soft=False, limit_s=self._limits.hard_s))
        self._chore = asyncio.get_running_loop().create_task(chore)

    def _is_reached(self, limit_s: float | None, look_again: Callable[[], None]) -> bool:
        """The limit holds now. If not yet, it is looked at again in time."""
        if limit_s is None or self._task is None or self._task.done() or self.is_abandoned:
            return False
        left_s = self._coroutine.left_s(limit_s)
        if left_s > 0:
            self._call_later(left_s, look_again)
        return left_s <= 0

    def _call_later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, what))

    def _tell_of_limit(self, *, soft: bool, limit_s: float | None) -> None:
        if self._limits.told is not None:
            self._limits.told(soft, limit_s)

    def _give_up(self) -> None:
        """It would not end, and cannot be made to: its slot goes to another, and its result is refused."""
        if self._task is not None and not self._task.done():
            log.error("a task swallows its cancellation: it is left to itself, and its result will be refused")
            self.is_left = True
            self._release(self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for timer in self._timers:
            timer.cancel()
        self._release(self)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Abandoned):
            log.error("a job of the pool failed outside its task", exc_info=error)
