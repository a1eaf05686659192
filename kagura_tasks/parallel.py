"""Coroutines at the same time: results in order, and no task left behind when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from inspect import isawaitable, iscoroutine
from typing import Any, TypeVar, cast

from kagura_tasks.errors import InvalidRequest

T = TypeVar("T")
R = TypeVar("R")


async def parallel_llm_calls(
    *calls: tuple[Callable[..., Awaitable[T]], Sequence[Any], Mapping[str, Any]],
) -> list[T]:
    """Call async functions at the same time.

    Args:
        calls: A function, its positional and its keyword arguments each: `(call_llm, ("Hello",), {"model": "gpt-4o"})`.

    Returns:
        The results, in the order of the calls.

    Raises:
        Exception: The first error of any of them; the others are cancelled, and have ended.
    """
    made: list[Awaitable[T]] = []
    try:
        for function, arguments, options in calls:
            made.append(function(*arguments, **options))
    except BaseException:
        _close(made)
        raise
    return await parallel_gather(*made)


async def parallel_gather(*awaitables: Awaitable[T]) -> list[T]:
    """Await all of these at the same time: coroutines, tasks, results of `LLMClient.submit`.

    Returns:
        The results, in the order of the awaitables.

    Raises:
        Exception: The first error of any of them; the others are cancelled, and have ended.
    """
    if strangers := [one for one in awaitables if not isawaitable(one)]:
        _close(awaitables)
        raise TypeError(f"{type(strangers[0]).__name__} cannot be awaited")
    async with _Together() as together:
        tasks = [together.start(_coroutine(one)) for one in awaitables]
    return [task.result() for task in tasks]


async def parallel_map(
    func: Callable[[T], Awaitable[R]], items: Iterable[T] | AsyncIterable[T], max_concurrent: int = 5
) -> list[R]:
    """Call an async function with each item, `max_concurrent` at a time. An item is taken when its turn comes.

    Returns:
        The results, in the order of the items.

    Raises:
        InvalidRequest: `max_concurrent` is below 1.
        Exception: The first error of a call or of the items; running calls are cancelled, and have ended.
    """
    if max_concurrent < 1:
        raise InvalidRequest(f"max_concurrent is {max_concurrent}: at least one call has to run at a time")
    free = asyncio.Semaphore(max_concurrent)
    results: list[R | None] = []
    cancelled: list[int] = []

    async def call(place: int, item: T) -> None:
        try:
            results[place] = await func(item)
        except asyncio.CancelledError:
            cancelled.append(place)
            free.release()
            raise
        # Not after an error: no further item is taken then.
        free.release()

    async with aclosing(_each(items)) as waiting, _Together() as together:
        await free.acquire()
        async for item in waiting:
            results.append(None)
            _ = together.start(call(len(results) - 1, item))
            await free.acquire()
    if cancelled:
        raise asyncio.CancelledError  # a call's own: a TaskGroup takes it for an end like any other
    return cast("list[R]", results)


class _Together(asyncio.TaskGroup):
    """A TaskGroup that raises the first error itself, as `gather` does."""

    def start(self, coroutine: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        return self.create_task(coroutine)

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            # What failed in the block itself is the group's last, though all others ended because of it.
            is_cause = error is not None and not isinstance(error, asyncio.CancelledError)
            raise group.exceptions[-1 if is_cause else 0] from None


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _coroutine(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    # One of one's own around a coroutine might be cancelled before it has begun to await it.
    return awaitable if iscoroutine(awaitable) else _awaited(awaitable)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _close(awaitables: Iterable[object]) -> None:
    """Let nobody be warned of coroutines that will never be awaited."""
    for one in awaitables:
        if iscoroutine(one):
            one.close()
