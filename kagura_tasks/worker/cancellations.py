"""Lets `cancel()` end the calls that run: each is heeded while it runs, and looked up by its task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from kagura_tasks.errors import TaskCancelled


@dataclass(eq=False)
class _Running:
    call: asyncio.Task[object]
    is_cancelled: bool = False


class Cancellations:
    """The calls of one event loop that can be cancelled."""

    def __init__(self) -> None:
        """Heed nothing yet."""
        self._running: dict[str, set[_Running]] = {}

    @property
    def task_ids(self) -> list[str]:
        """The tasks whose calls run."""
        return list(self._running)

    @asynccontextmanager
    async def heed(self, task_id: str) -> AsyncGenerator[None]:
        """Cancelling the task ends this block, which then raises TaskCancelled."""
        running = _Running(cast("asyncio.Task[object]", asyncio.current_task()))
        self._running.setdefault(task_id, set()).add(running)
        try:
            yield
        except asyncio.CancelledError:
            # Somebody else may want the whole call to end, for a reason of their own.
            if running.is_cancelled and running.call.uncancel() == 0:
                raise TaskCancelled(task_id) from None
            raise
        finally:
            self._running[task_id].discard(running)
            if not self._running[task_id]:
                del self._running[task_id]

    def cancel(self, task_id: str) -> None:
        """End the task's calls. Nothing happens where there is none."""
        for running in self._running.get(task_id, ()):
            if not running.is_cancelled:
                running.is_cancelled = True
                running.call.cancel()
