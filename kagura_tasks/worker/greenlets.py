"""Synchronous code on an event loop: a greenlet that asyncio drives as if it were a coroutine.

asyncio's Task takes any object with `send` and `throw`. Here each of its steps runs a greenlet until that has something
to wait for, which goes up to asyncio as any awaited future does. So whatever runs in the greenlet, Celery's tracer and
the coroutine of a task alike, has one current task, one context, and one identity for Celery's own stacks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, cast

from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit, getcurrent, greenlet

from kagura_tasks.worker.interruptible import Interruptible

#: A limit that is reached while a task's result is stored, say, looks again after so many seconds.
_AGAIN_S: Final = 0.1


class Abandoned(BaseException):
    """Nobody wants this job's result any more: it ends without storing one."""


class SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft time limit, as a coroutine sees it.

    A cancellation as well: `asyncio.timeout`, `wait_for`, `TaskGroup` and HTTP clients let go of what they wait for
    when they are cancelled, and of nothing else.
    """


class GreenletCoroutine(Coroutine[Any, Any, None]):
    """A synchronous function as a coroutine.

    Attributes:
        interruption: Thrown into the function in place of the next cancellation.
        is_abandoned: Whatever the function awaited, it is left with Abandoned.
        is_in_body: The function runs the body of its task; what that calls is called plainly.
        in_thread: The body runs in a thread, or waits for one: what can interrupt it there.
        began_at: When the body began (monotonic), be it a thread that it had to wait for; None before.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        """Take the function. It starts with the first step, on the event loop's thread."""
        self._function: Callable[[], None] | None = function
        self._greenlet: _JobGreenlet | None = None
        self._hub: greenlet | None = None
        self.interruption: BaseException | None = None
        self.is_abandoned = False
        self.is_in_body = False
        self.in_thread: Interruptible | None = None
        self.began_at: float | None = None

    def begin(self) -> None:
        """The body begins. A job whose body runs several times began with the first."""
        self.began_at = self.began_at or time.monotonic()

    def left_s(self, limit_s: float) -> float:
        """Seconds to look again after, or none: its body runs, and for longer than the limit."""
        if self.began_at is None:
            return limit_s
        left_s = self.began_at + limit_s - time.monotonic()
        return left_s if self.is_in_body else max(left_s, _AGAIN_S)

    def run(self) -> None:
        """What the greenlet does, once. What that holds goes with it, and is not left to the garbage collector."""
        function, self._function = self._function, None
        if function is not None:
            function()

    def send(self, value: Any, /) -> Any:
        """See Coroutine: run until there is something to wait for."""
        here = self._here()
        return self._after(here, here.switch(value))

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        """See Coroutine."""
        here = self._here()
        return self._after(here, here.throw(kind, value, traceback))

    def close(self) -> None:
        """See Coroutine."""
        if self._greenlet is not None and not self._greenlet.dead:
            self._greenlet.throw(GreenletExit)

    def __await__(self) -> Any:
        """asyncio takes it as it is; nobody awaits it."""
        raise TypeError("a job is run by the pool alone")

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        """Called in the greenlet: the awaitable's result. The event loop goes on meanwhile."""
        steps: Any = awaitable.__await__()
        thrown: BaseException | None = None
        try:
            while True:
                future = next(steps) if thrown is None else steps.throw(thrown)
                thrown = self._pause(future)
        except StopIteration as stop:
            result = stop.value
        except BaseException:
            self._leave_if_abandoned()
            raise
        self._leave_if_abandoned()
        return result

    def _pause(self, future: Any) -> BaseException | None:
        """Let the loop go on until the future is done; what asyncio throws at the one who waits."""
        try:
            cast(greenlet, self._hub).switch(future)
        except BaseException as error:  # noqa: BLE001 (whatever it is)
            return self._as_interruption(error)
        return None

    def _as_interruption(self, error: BaseException) -> BaseException:
        """A cancellation that stands for something else becomes that."""
        if self.interruption is None or not isinstance(error, asyncio.CancelledError):
            return error
        interruption, self.interruption = self.interruption, None
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        return interruption

    def _leave_if_abandoned(self) -> None:
        if self.is_abandoned:
            raise Abandoned from None

    def _here(self) -> _JobGreenlet:
        """The greenlet, which belongs to the thread that makes it: the event loop's."""
        if self._greenlet is None:
            self._greenlet, self._hub = _JobGreenlet(self), getcurrent()
        return self._greenlet

    def _after(self, here: _JobGreenlet, yielded: Any) -> Any:
        if here.dead:
            raise StopIteration
        return yielded


class _JobGreenlet(greenlet):
    """A greenlet that knows its job."""

    def __init__(self, job: GreenletCoroutine) -> None:
        super().__init__(self._main)
        self.job: GreenletCoroutine | None = job

    def _main(self, *_: Any) -> None:
        job = cast(GreenletCoroutine, self.job)
        try:
            job.run()
        finally:
            # The job knows its greenlet as well.
            self.job = None


def current_job() -> GreenletCoroutine | None:
    """The job whose greenlet this code runs in."""
    here = getcurrent()
    return here.job if isinstance(here, _JobGreenlet) else None
