"""Finds out that Redis lost its memory, and with it a task that somebody waits for.

A random text is kept in the broker. While it stays the same, whatever was sent there is still there. When it is another
one, or none, the server was restarted without what it held: then whoever waits looks once whether the task is still in
a queue, or with a worker, which records again what it runs.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final, cast
from uuid import uuid4

from kagura_tasks import task_store
from kagura_tasks.connections import async_client
from kagura_tasks.delivery_keys import EPOCH
from kagura_tasks.errors import TaskLost
from kagura_tasks.loops import PerLoop
from kagura_tasks.redis_types import AsyncRedis
from kagura_tasks.settings import RedisUrl, Settings

_EPOCH_TTL_S: Final = 30 * 86_400

#: Seconds beyond a renewal after which each worker that lives has found the server and recorded what it runs.
_SETTLE_S: Final = 5.0

#: Seconds for which all waiters of an event loop share one look into the queues.
_SHARED_S: Final = 5.0

#: Messages read in one step.
_PORTION: Final = 500

#: kombu's record of the messages that workers hold.
_UNACKED: Final = "unacked"

_looks = PerLoop(dict[RedisUrl, "_Look"])


class LossWatch:
    """One waiter's watch over its task."""

    def __init__(self, settings: Settings, task_id: str) -> None:
        """Take the task. Looks at nothing yet."""
        self._settings = settings
        self._task_id = task_id
        self._epoch: bytes | None = None
        self._search_at: float | None = None
        self._was_away = False

    def note_away(self) -> None:
        """The broker could not be asked: when it is back, it may be without what it held."""
        self._was_away = True

    async def note(self, epoch: bytes | None) -> None:
        """Take the text that the broker has now. Raises TaskLost where the task is in no queue and with no worker."""
        if epoch is None:
            epoch = await self._begin_epoch()
            self._suspect()
        elif self._was_away if self._epoch is None else epoch != self._epoch:
            self._suspect()
        self._epoch = epoch
        if self._search_at is None or time.monotonic() < self._search_at:
            return
        # It may have ended, and its message be gone, while we looked.
        if not await self._is_known() and not (await task_store.find(self._settings, self._task_id)).is_finished:
            raise TaskLost(self._task_id)
        self._search_at = None

    def _suspect(self) -> None:
        if self._search_at is None:
            self._search_at = time.monotonic() + self._settings.renewal_s + _SETTLE_S

    async def _begin_epoch(self) -> bytes | None:
        """Set the text, unless somebody else just did; what it is now."""
        await self._client.set(EPOCH, uuid4().hex, ex=_EPOCH_TTL_S, nx=True)
        return await self._client.get(EPOCH)

    async def _is_known(self) -> bool:
        looks, broker = _looks.here(), self._settings.broker
        look = looks.get(broker)
        if look is None or look.is_old:
            look = looks[broker] = _Look(self._client)
        return self._task_id in await look.ids()

    @property
    def _client(self) -> AsyncRedis:
        return async_client(self._settings.broker, self._settings.redis_timeout_s)


class _Look:
    """One look at all that waits and runs, which waiters share."""

    def __init__(self, client: AsyncRedis) -> None:
        self._begun_at = time.monotonic()
        self._ids = asyncio.ensure_future(_ids_of_all(client))

    @property
    def is_old(self) -> bool:
        """What was sent since is not in it, or it failed."""
        failed = self._ids.done() and (self._ids.cancelled() or self._ids.exception() is not None)
        return failed or time.monotonic() - self._begun_at > _SHARED_S

    async def ids(self) -> frozenset[str]:
        """The ids of the tasks."""
        return await asyncio.shield(self._ids)


async def ids_of_all_tasks(settings: Settings) -> frozenset[str]:
    """The ids of all tasks in queues and with workers, now. Raises redis-py's errors where the broker is away."""
    return await _ids_of_all(async_client(settings.broker, settings.redis_timeout_s))


async def _ids_of_all(client: AsyncRedis) -> frozenset[str]:
    """The ids of all tasks in queues and with workers. Read twice: a message may move while we look."""
    found: set[str] = set()
    for _ in range(2):
        async for key in client.scan_iter(match="*", count=1000, _type="list"):
            found |= await _ids_in_list(client, key.decode())
        async for _, record in client.hscan_iter(_UNACKED, count=_PORTION):
            found |= _id_in(record)
    return frozenset(found)


async def _ids_in_list(client: AsyncRedis, key: str) -> set[str]:
    found: set[str] = set()
    start = 0
    while messages := await client.lrange(key, start, start + _PORTION - 1):
        for message in messages:
            found |= _id_in(message)
        start += len(messages)
    return found


def _id_in(message: bytes) -> set[str]:
    """The id of the task that a message, or kombu's record of one, asks for; none in what is no message."""
    try:
        document: Any = json.loads(message)
        whole = cast(Any, document[0] if isinstance(document, list) else document)
        return {str(whole["headers"]["id"])}
    except (ValueError, TypeError, KeyError, IndexError):
        return set()
