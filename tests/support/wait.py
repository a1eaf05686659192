"""Waiting for a condition, never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.01


def until(condition: Callable[[], T], timeout_s: float = 30.0, what: str = "the condition") -> T:
    """The first true answer of `condition`. Fails the test when there was none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s (last: {answer!r})"
        time.sleep(_POLL_S)
    return answer


async def auntil(condition: Callable[[], Awaitable[T]], timeout_s: float = 30.0, what: str = "the condition") -> T:
    """The same for a coroutine function, without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s (last: {answer!r})"
        await asyncio.sleep(_POLL_S)
    return answer
