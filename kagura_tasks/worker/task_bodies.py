"""How the bodies of tasks run on the asyncio pool: coroutines are awaited, plain functions get a thread."""

# Celery's type stubs do not know what hangs on a task.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial, wraps
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final, cast

from celery import _state
from celery.exceptions import SoftTimeLimitExceeded

from kagura_tasks.worker.coroutine_tasks import attribute_of_body
from kagura_tasks.worker.greenlets import GreenletCoroutine, SoftLimit, current_job
from kagura_tasks.worker.interruptible import Forsaken, Interruptible
from kagura_tasks.worker.plain_threads import PlainThreads

#: A task with this attribute blocks nobody: it waits through `parking`, and needs no thread.
RUNS_ON_LOOP: Final = "runs_on_loop"

#: Celery's tasks that only call another task, once for each item: it is that one's body that counts.
_CALLERS: Final = {"celery.map", "celery.starmap"}

_ADAPTED: Final = "__kagura_adapted__"

Body = Callable[..., Any]
_Start = Callable[[GreenletCoroutine, Any, Any], Any]


def adapt(task: Any, threads: PlainThreads) -> None:
    """Let the task's body run as the pool needs it. Anywhere else than in a job it runs as it always did."""
    name = attribute_of_body(task)
    body = getattr(task, name)
    body = getattr(body, _ADAPTED, body)  # for another pool in this process, before
    if task.name in _CALLERS:
        return
    if getattr(task, RUNS_ON_LOOP, False):
        start: _Start = partial(_directly, body)
    elif iscoroutinefunction(body):
        start = partial(_awaited, body)
    else:
        start = partial(_in_thread, task, body, threads)
    setattr(task, name, _adapted(body, start))


def _adapted(body: Body, start: _Start) -> Body:
    @wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        job = current_job()
        # A body that calls another task as a function wants what that function returns.
        if job is None or job.is_in_body:
            return body(*args, **kwargs)
        job.is_in_body = True
        try:
            return start(job, args, kwargs)
        except SoftLimit as limit:
            raise SoftTimeLimitExceeded(*limit.args) from limit
        except asyncio.CancelledError:
            # Celery knows no such end of a task, and would take the worker for lost.
            raise RuntimeError("the task's coroutine was cancelled by its own code") from None
        finally:
            job.is_in_body, job.in_thread = False, None

    setattr(run, _ADAPTED, body)
    return run


def _directly(body: Body, job: GreenletCoroutine, args: Any, kwargs: Any) -> Any:
    job.begin()
    return body(*args, **kwargs)


def _awaited(body: Body, job: GreenletCoroutine, args: Any, kwargs: Any) -> Any:
    job.begin()
    return job.wait(body(*args, **kwargs))


def _in_thread(task: Any, body: Body, threads: PlainThreads, job: GreenletCoroutine, args: Any, kwargs: Any) -> Any:
    job.in_thread = Interruptible()
    call = _in_context(task, body, job, job.in_thread, args, kwargs)
    result = job.wait(_result_of(call, job.in_thread, threads))
    job.in_thread = None
    # A plain decorator around an `async def`, say.
    return job.wait(result) if isawaitable(result) else result


async def _result_of(function: Callable[[], Any], running: Interruptible, threads: PlainThreads) -> Any:
    future = threads.submit(function)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        threads.forsake(future)
        running.interrupt(Forsaken)
        raise


def _in_context(
    task: Any, body: Body, job: GreenletCoroutine, running: Interruptible, args: Any, kwargs: Any
) -> Callable[[], Any]:
    """The body, for a thread, where `current_task` and `self.request` are the same as here."""
    request = task.request_stack.top
    stack = cast(Any, _state)._task_stack

    def run() -> Any:
        job.begin()
        task.app.set_current()
        task.request_stack.push(request)
        stack.push(task)
        try:
            return running.run(partial(body, *args, **kwargs))
        except StopIteration as stop:
            # No future can hold it.
            raise RuntimeError("the task raised StopIteration") from stop
        finally:
            stack.pop()
            task.request_stack.pop()

    return partial(contextvars.copy_context().run, run)
