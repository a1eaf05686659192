"""Celery's consumer, for messages that go wrong: they are kept, and no log quotes them."""

# Celery's type stubs do not know what a subclass of these works with.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import logging
from base64 import b64decode
from typing import Any, Final

from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.app.task import Context
from celery.exceptions import NotRegistered
from celery.worker import consumer as stock
from celery.worker.request import Request as _Request

from kagura_tasks.app import settings_of
from kagura_tasks.connections import REDIS_AWAY, sync_client
from kagura_tasks.delivery_keys import TAKEN_TTL_S, taken_key
from kagura_tasks.errors import TaskPoisoned
from kagura_tasks.settings import Settings, load_settings
from kagura_tasks.worker.deliveries import Message, headers_of
from kagura_tasks.worker.lease import is_stopping, was_sent
from kagura_tasks.worker.transport import Channel

log = logging.getLogger(__name__)

_StockConsumer: Any = stock.Consumer
_StockRequest: Any = _Request

#: Celery's own name for the class of requests, where a task names no other.
_STOCK_REQUEST: Final = "celery.worker.request:Request"
_REQUEST: Final = f"{__name__}:Request"

#: Events are for people who watch: they leave together, this often (s), or when there are so many.
_EVENTS_EVERY_S: Final = 0.1
_MOST_EVENTS: Final = 1000


class Request(_StockRequest):
    """Celery's own, which notes that the pool began it, and that a child of the pool died of it."""

    def on_accepted(self, pid: int | None, time_accepted: float) -> None:
        """See Celery."""
        channel = self._message.channel
        if isinstance(channel, Channel):
            channel.holdings.begin(self._message.delivery_tag)
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """See Celery."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        channel = self._message.channel
        # A worker that stops ends its children itself.
        if isinstance(error, WorkerLostError) and isinstance(channel, Channel) and not is_stopping():
            channel.holdings.blame(self._message.delivery_tag)
        return super().on_failure(exc_info, send_failed_event, return_ok)


class Consumer(_StockConsumer):
    """What Celery's setting `worker_consumer` names."""

    _is_flush_planned = False

    def update_strategies(self) -> None:
        """See Celery."""
        for task in self.app.tasks.values():
            if task.Request == _STOCK_REQUEST:
                task.Request = _REQUEST
        super().update_strategies()

    def on_close(self) -> None:
        """See Celery. Its pool of processes would forget what a child was sent and has not confirmed, but does."""
        for job in list(getattr(getattr(self.pool, "_pool", None), "_cache", {}).values()):
            job._accepted = job._accepted or was_sent(job)
        if is_stopping():
            self._flush_events()
        super().on_close()
        # Its timer may have been cancelled with the connection's.
        self._is_flush_planned = False

    def on_send_event_buffered(self) -> None:
        """See Celery, whose own sends the events of each turn of its loop: a message, and a round trip, for each task.

        Called on the pool's threads as well: there the timer must not be touched.
        """
        if is_stopping() or not self.hub:
            super().on_send_event_buffered()
        elif not self._is_flush_planned:
            self._is_flush_planned = True
            self.hub.call_soon(self.hub.call_later, _EVENTS_EVERY_S, self._flush_planned)

    def _flush_planned(self) -> None:
        # First this: whoever has still seen it planned has put its event into the buffer before.
        self._is_flush_planned = False
        self._flush_events()

    def on_ready(self) -> None:
        """See Celery. From here on the transport can tell what it buries."""
        if self.event_dispatcher:
            # Whoever finds the buffer full sends it, which may be the event loop of the pool.
            self.event_dispatcher.buffer_limit = _MOST_EVENTS
        channel = self.task_consumer.channel
        if isinstance(channel, Channel):
            channel.keeper.obituary = Obituary(self.app)
            channel.keeper.before_taking = MarkElsewhere(settings_of(self.app, load_settings()))
        super().on_ready()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A message whose content this worker does not take: Celery's own drops it, and quotes it in the log."""
        self._bury(message, "it cannot be decoded")

    def on_unknown_message(self, body: object, message: Any) -> None:
        """A message that asks for no task."""
        self._bury(message, "it is no task")
        signals.task_rejected.send(sender=self, message=message, exc=None)

    def on_invalid_task(self, body: object, message: Any, exc: Exception) -> None:
        """A message that asks for a task in a way that it cannot be read."""
        self._bury(message, "it is no valid task, or its content type is not accepted")
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def on_unknown_task(self, body: object, message: Any, exc: Exception) -> None:
        """A message that asks for a task that this worker does not have; whoever waits for it is told."""
        headers = _headers(message)
        name, task_id = headers.get("task"), headers.get("id")
        self._bury(message, "no task of this name is registered")
        if name and task_id:
            self.app.backend.mark_as_failure(task_id, NotRegistered(name), request=_context(headers))
            signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

    def _bury(self, message: Any, reason: str) -> None:
        log.error("a message (task %s) is a dead letter: %s", _headers(message).get("task", "unknown"), reason)
        channel = message.channel
        if isinstance(channel, Channel):
            channel.bury(message.delivery_tag, reason)
        else:
            message.reject_log_error(log, self.connection_errors)


class Obituary:
    """Records a task that is tried no more as failed, so that whoever waits for it, or for its chord, is told."""

    def __init__(self, app: Celery) -> None:
        """Take the app whose result backend is told."""
        self._app = app

    def __call__(self, message: Message, deaths: int) -> None:
        """Tell. Raises redis-py's errors where the result backend is away, so that it is tried again."""
        headers = headers_of(message)
        task_id = headers.get("id")
        if not isinstance(task_id, str):
            return
        request = _context({**headers, **_embedded(message), "properties": {}})
        try:
            self._backend_of(headers).mark_as_failure(task_id, TaskPoisoned(task_id, deaths), request=request)
        except REDIS_AWAY:
            raise
        except Exception:
            # A callback that cannot be sent must not keep the message in the fleet.
            log.exception("task %s could not be recorded as failed", task_id)

    def _backend_of(self, headers: Message) -> Any:
        """A task may have a result backend of its own."""
        task = self._app.tasks.get(str(headers.get("task")))
        return self._app.backend if task is None else task.backend


class MarkElsewhere:
    """Marks a message as taken where results and answers are kept, if that is not the broker's Redis."""

    def __init__(self, settings: Settings) -> None:
        """Take where everything is."""
        self._urls = {settings.results, settings.cache} - {settings.broker}
        self._timeout_s = settings.redis_timeout_s

    def __call__(self, delivery_tag: str) -> None:
        """Mark it. A server that is away takes no result of a zombie's either."""
        for url in self._urls:
            try:
                sync_client(url, self._timeout_s).set(taken_key(delivery_tag), "1", ex=TAKEN_TTL_S)
            except REDIS_AWAY as error:
                log.warning("a message could not be marked as taken at %s (%s)", url.masked(), type(error).__name__)


def _headers(message: Any) -> dict[str, Any]:
    return headers_of({"headers": message.headers})


def _context(fields: dict[str, Any]) -> Context:
    return Context(fields)


def _embedded(message: Message) -> dict[str, Any]:
    """The chord, chain and callbacks that a message carries in its body (Celery's message protocol 2)."""
    try:
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = b64decode(body)
        args, kwargs, embedded = json.loads(body)
    except (ValueError, TypeError, KeyError):
        return {}
    known = {name: embedded.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
    return {"args": args, "kwargs": kwargs, **known}
