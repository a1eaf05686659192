"""Calls that workers make: sent through Celery."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from celery import Celery, Signature
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from kagura_tasks import signatures
from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.connections import CANNOT_WRITE_NOW, redis_errors, sync_client
from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.queued_answers import QueuedAnswer
from kagura_tasks.queued_maps import QueueMaps
from kagura_tasks.redis_types import SyncRedis
from kagura_tasks.results import LLMResult
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.log import APPEND, RESERVE, StreamName
from kagura_tasks.streaming.outlet import StreamTerms
from kagura_tasks.streaming.publisher import append_args
from kagura_tasks.streaming.replay import events_of
from kagura_tasks.streaming.writer import Events

log = logging.getLogger(__name__)


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
        if stream:
            self._reserve(name)
        return self._sent(name, signatures.complete(self._app, request, looked_up=looked_up, stream=stream))

    def route(self, order: RouteOrder, task_id: str) -> LLMResult:
        """Enqueue one task that decides and answers. Raises RedisUnreachable."""
        return self._sent(StreamName(order.tenant, task_id), signatures.route(self._app, order))

    def embed(self, request: CompletionRequest, task_id: str) -> LLMResult:
        """Enqueue a call of an embedding model. Raises RedisUnreachable."""
        return self._sent(StreamName(request.tenant, task_id), signatures.embed(self._app, request))

    def _sent(self, name: StreamName, signature: Signature[Any]) -> LLMResult:
        broker = self._settings.broker
        try:
            with redis_errors(broker):
                _send(signature, name.task_id)
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
