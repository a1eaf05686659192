"""Answers of workers: waited for in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kagura_tasks import task_store
from kagura_tasks.connections import REDIS_AWAY, async_client, redis_errors, sync_client
from kagura_tasks.errors import ResultTimeout
from kagura_tasks.memory_loss import LossWatch
from kagura_tasks.schemas import Completion
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.events import Event
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.subscriber import Subscriber
from kagura_tasks.subscriptions import Listener, subscriptions
from kagura_tasks.task_store import TaskRecord, record_key

#: Seconds after which a waiter looks for itself, whatever it was told: the bound on any lost notice.
_LOOK_AGAIN_S: Final = 5.0

#: Seconds in which a Redis that is well answers whoever has waited in vain.
_PING_S: Final = 0.5

#: Seconds before the next look at a Redis that is away.
_RECONNECT_S: Final = 0.2


class QueuedAnswer:
    """The answer of a worker, as it is recorded in Redis."""

    def __init__(self, name: StreamName, settings: Settings, app: Celery, *, is_ours: bool = False) -> None:
        """Take the task, where its record is, and whether it was sent just now, by this process."""
        self._name = name
        self._task_id = name.task_id
        self._settings = settings
        self._app = app
        self._is_ours = is_ours

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource. A Redis that is away for a while is waited for."""
        wait_s = self._settings.wait_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(wait_s):
                loss = LossWatch(self._settings, self._task_id)
                record = await self._look(loss) or await self._wait(loss)
        except TimeoutError:
            with redis_errors(self._settings.results):
                await self._ping()
            raise ResultTimeout(self._task_id, wait_s) from None
        return record.completion()

    def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource."""
        return Subscriber(self._settings, self._name, after, is_ours=self._is_ours).batches()

    def status(self) -> str:
        """See AnswerSource."""
        client = sync_client(self._settings.results, self._settings.redis_timeout_s)
        with redis_errors(self._settings.results):
            value = client.get(record_key(self._task_id))
        return TaskRecord.parse(self._task_id, value).state

    def cancel(self) -> None:
        """See AnswerSource. The record keeps any worker from starting it; broadcasts tell those that run or hold it."""
        if self.forgo():
            try:
                self._app.control.revoke(self._task_id)
            except (OperationalError, RedisError):
                # The record alone keeps it from being started: the broadcast only spares the workers a look.
                return

    def forgo(self) -> bool:
        """Record it as cancelled, unless it has an outcome; whether it was. Enough for a task that was not sent yet."""
        with redis_errors(self._settings.results):
            return task_store.cancel(self._settings, self._task_id)

    async def _wait(self, loss: LossWatch) -> TaskRecord:
        """Subscribe, look, and then look whenever something is announced."""
        hub = subscriptions(self._settings.results, self._settings.redis_timeout_s)
        with hub.listen(record_key(self._task_id)) as listener:
            await listener.confirmed(None)
            record = await self._look(loss)
            while record is None:
                record = await self._next(listener, loss)
            return record

    async def _next(self, listener: Listener, loss: LossWatch) -> TaskRecord | None:
        try:
            payload = await listener.next(_LOOK_AGAIN_S)
        except TimeoutError:
            payload = None
        if payload is None:
            return await self._look(loss)
        record = TaskRecord.parse(self._task_id, payload)
        return record if record.is_finished else None

    async def _look(self, loss: LossWatch) -> TaskRecord | None:
        """The record, if the task has an outcome and Redis is there to tell. Raises TaskLost."""
        try:
            record, epoch = await task_store.find_with_epoch(self._settings, self._task_id)
            if not record.is_finished:
                await loss.note(epoch)
        except REDIS_AWAY:
            loss.note_away()
            await asyncio.sleep(_RECONNECT_S)
            return None
        return record if record.is_finished else None

    async def _ping(self) -> None:
        """Raises redis-py's errors where Redis is away, soon: the caller has waited long enough."""
        client = async_client(self._settings.results, self._settings.redis_timeout_s)
        try:
            async with asyncio.timeout(_PING_S):
                await client.ping()
        except TimeoutError:
            raise RedisTimeoutError from None
