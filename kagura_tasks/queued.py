"""Calls that workers make: sent through Celery, waited for in Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final

from celery import Celery, Signature
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kagura_tasks import signatures, task_store
from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.connections import CANNOT_WRITE_NOW, REDIS_AWAY, async_client, redis_errors, sync_client
from kagura_tasks.errors import RedisUnreachable, ResultTimeout
from kagura_tasks.memory_loss import LossWatch
from kagura_tasks.queued_maps import QueueMaps
from kagura_tasks.redis_types import SyncRedis
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.events import Event
from kagura_tasks.streaming.log import APPEND, RESERVE, StreamName
from kagura_tasks.streaming.outlet import StreamTerms
from kagura_tasks.streaming.publisher import append_args
from kagura_tasks.streaming.replay import events_of
from kagura_tasks.streaming.subscriber import Subscriber
from kagura_tasks.streaming.writer import Events
from kagura_tasks.subscriptions import Listener, subscriptions
from kagura_tasks.task_store import TaskRecord, record_key

log = logging.getLogger(__name__)

#: Seconds after which a waiter looks for itself, whatever it was told: the bound on any lost notice.
_LOOK_AGAIN_S: Final = 5.0

#: Seconds in which a Redis that is well answers whoever has waited in vain.
_PING_S: Final = 0.5

#: Seconds before the next look at a Redis that is away.
_RECONNECT_S: Final = 0.2


class QueueExecutor:
    """Sends requests to the workers' queues."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        """Take the settings, and the Celery app to send through."""
        self._settings = settings
        self._app = app
        self.cache = LLMCache.from_settings(settings)
        self.maps = QueueMaps(settings, app)

    def submit(self, request: CompletionRequest, task_id: str, *, looked_up: bool, stream: bool = False) -> LLMResult:
        """Enqueue. Raises RedisUnreachable."""
        name = StreamName(request.tenant, task_id)
        broker = self._settings.broker
        if stream:
            self._reserve(name)
        try:
            with redis_errors(broker):
                _send(signatures.complete(self._app, request, looked_up=looked_up, stream=stream), name.task_id)
        except OperationalError:
            raise RedisUnreachable(broker.masked(), "the message could not be sent") from None
        return LLMResult(name.task_id, QueuedAnswer(name, self._settings, self._app, is_ours=True))

    async def asubmit(
        self, request: CompletionRequest, task_id: str, *, looked_up: bool, stream: bool = False
    ) -> LLMResult:
        """The same, without blocking the event loop: kombu sends in a thread."""
        return await asyncio.to_thread(partial(self.submit, request, task_id, looked_up=looked_up, stream=stream))

    def keep_stream(self, request: CompletionRequest, task_id: str, completion: Completion) -> None:
        """Let a remembered answer be resumed like any other, by whoever has its id."""
        name = StreamName(request.tenant, task_id)
        terms = StreamTerms.from_settings(self._settings)
        payloads = [event.model_dump_json().encode() for event in events_of(completion)]
        try:
            APPEND.run(self._results, [name.key, name.state_key], append_args(Events(1, 1, payloads, True), terms))
        except CANNOT_WRITE_NOW as error:
            log.warning("a remembered answer's stream cannot be resumed (%s)", type(error).__name__)

    def result(self, task_id: str, tenant: str | None = None) -> LLMResult:
        """The handle of a task that was sent before, perhaps by another process."""
        name = StreamName(tenant or self._settings.tenant, task_id)
        return LLMResult(task_id, QueuedAnswer(name, self._settings, self._app))

    def _reserve(self, name: StreamName) -> None:
        """Whoever resumes the stream before a worker begins it is told to wait, for as long as the task may wait."""
        with redis_errors(self._settings.results):
            _ = RESERVE.run(self._results, [name.state_key], [self._settings.result_ttl_s])

    @property
    def _results(self) -> SyncRedis:
        return sync_client(self._settings.results, self._settings.redis_timeout_s)


def _send(signature: Signature[Any], task_id: str) -> None:
    try:
        signature.apply_async(task_id=task_id, retry=False)
    except RedisConnectionError:
        # A connection that was dropped while it was idle. (Celery would also send a second time to a server that hangs,
        # which may have got the first: the task would run twice.)
        signature.apply_async(task_id=task_id, retry=False)


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
        with redis_errors(self._settings.results):
            cancelled = task_store.cancel(self._settings, self._task_id)
        if cancelled:
            try:
                self._app.control.revoke(self._task_id)
            except (OperationalError, RedisError):
                # The record alone keeps it from being started: the broadcast only spares the workers a look.
                return

    async def _wait(self, loss: LossWatch) -> TaskRecord:
        """Subscribe, look, and then look whenever something is announced."""
        hub = subscriptions(self._settings.results, self._settings.redis_timeout_s)
        async with hub.listen(record_key(self._task_id)) as listener:
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
