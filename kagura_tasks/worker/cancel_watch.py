"""Hears of cancelled tasks: one subscription an event loop, for however many calls run on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from celery import states

from kagura_tasks import task_store
from kagura_tasks.connections import REDIS_AWAY, before_closing
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.store import cancelled_among
from kagura_tasks.settings import Settings
from kagura_tasks.subscriptions import Listener, subscriptions
from kagura_tasks.worker.cancellations import Cancellations

log = logging.getLogger(__name__)

#: Seconds after which the records are looked at, whatever was heard: the bound on any lost notice.
_LOOK_AGAIN_S: Final = 5.0


class CancelWatch:
    """Ends the calls of tasks that were cancelled, wherever that was asked for."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings: where the records are. Listens to nothing yet."""
        self._settings = settings
        self._calls = Cancellations()
        self._maps: dict[str, MapName] = {}
        self._watching: asyncio.Task[None] | None = None

    def heed(self, task_id: str) -> AbstractAsyncContextManager[None]:
        """Cancelling the task ends this block, which then raises TaskCancelled."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="kagura-cancellations")
            before_closing(self._stop)
        return self._calls.heed(task_id)

    @asynccontextmanager
    async def heed_item(self, task_id: str, name: MapName) -> AsyncGenerator[None]:
        """The same for an item of this map: cancelling the map ends it, too."""
        self._maps[task_id] = name
        try:
            async with self.heed(task_id):
                yield
        finally:
            self._maps.pop(task_id, None)

    async def _stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        hub = subscriptions(self._settings.results, self._settings.redis_timeout_s)
        with hub.listen(task_store.CANCELLED) as listener:
            with suppress(TimeoutError):
                await listener.confirmed(self._settings.redis_timeout_s)
            # For what was announced before.
            await self._look()
            while True:
                await self._hear(listener)

    async def _hear(self, listener: Listener) -> None:
        try:
            batch = await listener.next_batch(_LOOK_AGAIN_S)
        except TimeoutError:
            batch = [None]
        for heard in batch:
            if heard is not None:
                self._calls.cancel(heard.payload.decode("utf-8", "replace"))
        if None in batch:
            await self._look()

    async def _look(self) -> None:
        """Cancel what is recorded as cancelled: a notice may have been missed."""
        with suppress(*REDIS_AWAY):
            for record in await task_store.find_all(self._settings, self._calls.task_ids):
                if record.state == states.REVOKED:
                    self._calls.cancel(record.task_id)
        # Whose items run now: later ones may be of a map that goes on again.
        items = dict(self._maps)
        with suppress(*REDIS_AWAY):
            cancelled = await cancelled_among(self._settings, set(items.values()))
            for task_id, name in items.items():
                if name in cancelled:
                    self._calls.cancel(task_id)
