"""How the bodies of tasks run on the asyncio pool: coroutines are awaited, plain functions get a thread."""

# Celery's type stubs do not know what hangs on a task.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, Final, cast

from celery import _state

from kagura_tasks.worker.greenlets import GreenletCoroutine, current_job

#: A task with this attribute blocks nobody: it waits through `parking`, and needs no thread.
RUNS_ON_LOOP: Final = "runs_on_loop"

_ADAPTED: Final = "__kagura_adapted__"


def adapt(task: Any, executor: Executor) -> None:
    """Let the task's body run as the pool needs it. Anywhere else than in a job it runs as it always did."""
    # With `autoretry_for`, `run` is Celery's: it catches what the body raises, and the body is here.
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"
    body = getattr(task, name)
    if getattr(body, _ADAPTED, False) or getattr(task, RUNS_ON_LOOP, False):
        return
    start = partial(_awaited, body) if iscoroutinefunction(body) else partial(_in_thread, task, body, executor)
    setattr(task, name, _adapted(body, start))


def _adapted(body: Callable[..., Any], start: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    @wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        job = current_job()
        # A body that calls another task as a function wants what that function returns.
        if job is None or job.has_body:
            return body(*args, **kwargs)
        job.has_body = True
        return _wait(job, start(args, kwargs))

    setattr(run, _ADAPTED, True)
    return run


def _wait(job: GreenletCoroutine, awaitable: Awaitable[Any]) -> Any:
    try:
        return job.wait(awaitable)
    except asyncio.CancelledError:
        # Celery knows no such end of a task, and would take the worker for lost.
        raise RuntimeError("the task's coroutine was cancelled by its own code") from None


async def _awaited(body: Callable[..., Awaitable[Any]], args: Any, kwargs: Any) -> Any:
    return await body(*args, **kwargs)


async def _in_thread(task: Any, body: Callable[..., Any], executor: Executor, args: Any, kwargs: Any) -> Any:
    """The body in a thread, where `current_task` and `self.request` are the same as here."""
    request = task.request_stack.top
    stack = cast(Any, _state)._task_stack

    def run() -> Any:
        task.request_stack.push(request)
        stack.push(task)
        try:
            return body(*args, **kwargs)
        except StopIteration as stop:
            # No future can hold it.
            raise RuntimeError("the task raised StopIteration") from stop
        finally:
            stack.pop()
            task.request_stack.pop()

    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(executor, context.run, run)
