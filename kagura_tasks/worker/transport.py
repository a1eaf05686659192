"""kombu's Redis transport, which fetches as many messages as a worker has room for in one atomic step.

Stock kombu fetches one message at a time, with three round trips for each: an LLM worker with room for hundreds of
calls cannot be fed fast enough. Here the first message wakes the worker as ever, and one script then takes all that
there is room for and records it as unacknowledged. Messages and records are kombu's own, so that stock workers and
these can share a broker.
"""

# kombu's type stubs do not know what a subclass of its channel works with.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import logging
import time
from collections import deque
from typing import Any, Final, cast

from celery import Celery
from celery.signals import celeryd_init
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from kombu.transport.virtual import base as virtual

from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import Argument, SyncRedis

#: Most messages taken in one step: no other client of the server waits longer than about a millisecond for it.
_MOST_AT_ONCE: Final = 100

#: kombu's word for this transport.
_ALIAS: Final = "kagura"

_FETCH: Final = LuaScript.load(__package__ or "", "fetch.lua")


class QoS(stock.QoS):
    """kombu's own, but for messages that are recorded as unacknowledged already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See kombu."""
        super().__init__(*args, **kwargs)
        self.recorded: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep track of a delivered message; one that the script recorded costs no further round trip."""
        if delivery_tag in self.recorded:
            self.recorded.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def room(self) -> int:
        """How many further messages may be taken now."""
        if not self.prefetch_count:
            return _MOST_AT_ONCE
        held = len(self._delivered or ()) - len(self._dirty or ())
        return max(0, min(self.prefetch_count - held, _MOST_AT_ONCE))


log = logging.getLogger(__name__)

_StockChannel: Any = stock.Channel


class Channel(_StockChannel):
    """kombu's own, with a fetch behind each message that woke the worker."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See kombu."""
        self._unrecorded: set[str] = set()
        self._shared_client: object = None
        self._shared_pool: object = None
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        """See kombu; notes which queues nobody acknowledges."""
        if no_ack:
            self._unrecorded.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for all short commands: kombu makes one for each, which costs more than the command."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._shared_client is None or self._shared_pool is not self.pool:
            self._shared_client, self._shared_pool = super()._create_client(), self.pool
        return self._shared_client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            delivered = super()._brpop_read(**options)
        except ValueError:
            # Stock kombu lets this end the worker: whoever can push to the queue could stop the fleet.
            log.error("an item of a queue is no message: it was dropped")  # noqa: TRY400 (a traceback quotes it)
            return True
        # With a prefix, kombu's client rewrites the keys of our script, but only some of them.
        if not self.global_keyprefix:
            self._deliver_all(self._fetch())
        return delivered

    def _fetch(self) -> list[tuple[str, bytes]]:
        """Take what there is room for: queue and message, the most urgent first."""
        room = cast(QoS, self.qos).room()
        queues = cast("list[str]", self._queue_cycle.consume(len(self.active_queues)))
        if not room or not queues:
            return []
        lists = [(queue, self._q_for_pri(queue, priority)) for priority in self.priority_steps for queue in queues]
        keys = [self.unacked_key, self.unacked_index_key, *(key for _, key in lists)]
        args: list[Argument] = [room, time.time(), *("0" if queue in self._unrecorded else "1" for queue, _ in lists)]
        with self.conn_or_acquire() as client:
            taken = cast("list[Any]", _FETCH.run(cast(SyncRedis, client), keys, args))
        return [(lists[number - 1][0], message) for number, message in pairwise_of(taken)]

    def _deliver_all(self, fetched: list[tuple[str, bytes]]) -> None:
        """Hand the messages to their consumers. Where that fails, the rest goes back to the queue."""
        waiting = deque(pair for queue, raw in fetched if (pair := _read(queue, raw)) is not None)
        qos = cast(QoS, self.qos)
        qos.recorded.update(_tag(message) for queue, message in waiting if queue not in self._unrecorded)
        try:
            while waiting:
                queue, message = waiting.popleft()
                self.connection._deliver(message, queue)
        finally:
            for queue, message in waiting:
                if queue not in self._unrecorded:
                    qos.recorded.discard(_tag(message))
                    qos.restore_by_tag(_tag(message))


class Transport(stock.Transport):
    """What Celery's setting `broker_transport` names."""

    Channel = Channel


def fetch_in_batches(app: Celery) -> None:
    """Let the app's workers use this transport. Whoever only sends, or watches, goes on with kombu's own."""

    def choose_transport(instance: Any = None, conf: Any = None, **_: object) -> None:
        if getattr(instance, "app", None) is app:
            conf.broker_transport = _ALIAS
            # A socket's address names its transport, and kombu believes it before the setting.
            conf.broker_url = conf.broker_url.replace("redis+socket://", f"{_ALIAS}+socket://")

    TRANSPORT_ALIASES.setdefault(_ALIAS, f"{__name__}:Transport")
    celeryd_init.connect(choose_transport, weak=False)


def pairwise_of(flat: list[Any]) -> list[tuple[int, bytes]]:
    """A list of pairs, out of one in which they stand in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def _read(queue: str, raw: bytes) -> tuple[str, dict[str, Any]] | None:
    """The message, or None for what is none: the script has recorded only messages."""
    try:
        message = json.loads(raw)
        _tag(message)
    except (ValueError, KeyError, TypeError):
        log.error("an item of the queue %s is no message: it was dropped", queue)  # noqa: TRY400 (as above)
        return None
    return queue, message


def _tag(message: dict[str, Any]) -> str:
    return message["properties"]["delivery_tag"]
