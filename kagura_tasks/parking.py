"""Lets synchronous code wait for a coroutine without blocking its thread, where a pool can do that.

Celery's tracer is synchronous, and so is a result backend. On the asyncio pool each task runs in a greenlet that can be
set aside while the event loop goes on; whoever has something to wait for asks here whether that is so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

#: Waits for an awaitable on the running event loop: its result, or its exception.
Awaiter = Callable[[Awaitable[Any]], Any]

_find: Callable[[], Awaiter | None] = lambda: None  # noqa: E731 (replaced by the pool)


def awaiter() -> Awaiter | None:
    """What can wait here; None where the calling code has a thread of its own, and may block it."""
    return _find()


def provide(find: Callable[[], Awaiter | None]) -> None:
    """Let this function find what can wait. For a pool, once a process."""
    global _find
    _find = find
