"""How a tool's function is run: in a task or a thread of its own, where it cannot end the worker or hold it up."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from kagura_tasks.worker.interruptible import Forsaken, Interruptible
from kagura_tasks.worker.plain_threads import PlainThreads

#: Plain functions that run at once in a process. Those that hang, and are no longer waited for, do not count.
_THREADS: Final = PlainThreads(64)

#: Coroutines of tools that run. The event loop alone would not keep them.
_running: Final[set[asyncio.Task[object]]] = set()


class ProgramEnded(Exception):
    """The function raised what ends a program (`sys.exit`). The text is the class's name."""


async def result_of(function: Callable[..., object], arguments: dict[str, object]) -> object:
    """What the function returns, plain or a coroutine function. Raises what it raises, or ProgramEnded.

    When this is cancelled, the function is told, and not waited for any more: it may refuse to end.
    """
    if inspect.iscoroutinefunction(function):
        return await _in_task(function(**arguments))
    result = await _in_thread(partial(function, **arguments))
    # A plain decorator around an `async def`, say.
    return await _in_task(result) if inspect.isawaitable(result) else result


async def _in_task(work: Awaitable[object]) -> object:
    task = asyncio.create_task(_tamed(work), name="kagura-tool")
    _running.add(task)
    task.add_done_callback(_forget)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        raise


async def _tamed(work: Awaitable[object]) -> object:
    """What comes of it. asyncio lets what ends a program through to the event loop, and so ends that."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise ProgramEnded(type(error).__name__) from None


def _forget(task: asyncio.Task[object]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as seen: asyncio would log it, and its text may hold anything


async def _in_thread(function: Callable[[], object]) -> object:
    running, context = Interruptible(), contextvars.copy_context()
    future = _THREADS.submit(lambda: context.run(lambda: running.run(partial(_without_ends, function))))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        _THREADS.forsake(future)
        running.interrupt(Forsaken)
        raise


def _without_ends(function: Callable[[], object]) -> object:
    """What the function returns. No future can hold a StopIteration."""
    try:
        return function()
    except (SystemExit, KeyboardInterrupt, StopIteration) as error:
        raise ProgramEnded(type(error).__name__) from None
