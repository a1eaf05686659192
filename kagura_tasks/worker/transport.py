"""kombu's Redis transport, made fit for work that must neither be lost nor done twice.

Stock kombu pops a message first and records it as unacknowledged afterwards: what a worker had popped when it died is
gone. It fetches one message at a time, with three round trips for each. And it hands a message out again when a fixed
time has passed, whether its worker lives or not. Here one atomic step takes as many messages as there is room for,
records them, and settles what is done meanwhile; nothing is popped while a worker waits, because the server itself
tells the connection when a list that it found empty has changed (`CLIENT TRACKING`, Redis 6 and later); and what a
worker holds is renewed for as long as it lives (`lease.py`).

Messages and records are kombu's own, so that stock workers and these can share a broker.
"""

# kombu's type stubs do not know what a subclass of its channel works with.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from functools import cached_property
from time import monotonic
from typing import Any, Final, cast

import redis
from kombu.exceptions import OperationalError
from kombu.transport import redis as stock
from kombu.transport.virtual import base as virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from kagura_tasks.connections import REDIS_AWAY
from kagura_tasks.worker.deliveries import FETCH, Lease, Message, as_waiting, deaths_of, message_in
from kagura_tasks.worker.holdings import Held, Holdings
from kagura_tasks.worker.keepers import keeper_for
from kagura_tasks.worker.lease import LeaseKeeper, is_stopping, tags_with_the_pool

log = logging.getLogger(__name__)

#: Most messages taken in one step: no other client of the server waits longer than about a millisecond for it.
_MOST_AT_ONCE: Final = 100

#: An idle worker looks for itself after so many seconds, whatever it was told: the bound on any lost notice, and how
#: a connection that is dead without a word is found. Where the server tells nothing, it looks more often.
_LOOK_AGAIN_S: Final = 5.0
_LOOK_UNTOLD_S: Final = 0.2

#: Seconds after which what a stock worker holds is handed out again: kombu's own default. It renews nothing.
_STOCK_VISIBILITY_TIMEOUT_S: Final = 3600

_StockChannel: Any = stock.Channel
_StockQoS: Any = stock.QoS
_StockPoller: Any = stock.MultiChannelPoller


class QoS(_StockQoS):
    """kombu's own, but for messages that the fetch has recorded already."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep track of a delivered message."""
        if delivery_tag in self.channel.holdings:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Settle the message with the next call to the server. Its result is stored by now."""
        if self.channel.holdings.settle(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
        elif delivery_tag in (self._delivered or ()):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False, reason: str = "it was rejected") -> None:
        """Put the message back into its list, or among the dead letters."""
        if self.channel.keeper.reject(delivery_tag, requeue=requeue, reason=reason):
            virtual.QoS.ack(self, delivery_tag)
        elif delivery_tag in (self._delivered or ()):
            super().reject(delivery_tag, requeue)

    def room(self) -> int:
        """How many further messages may be taken now."""
        if not self.prefetch_count:
            return _MOST_AT_ONCE
        held = len(self._delivered or ()) - len(self._dirty or ()) + self.channel.backlog
        return max(0, min(self.prefetch_count - held, _MOST_AT_ONCE))

    def restore_unacked(self, client: object = None) -> None:
        """The channel closes: give back what it held. What the pool runs is kept, unless the worker itself stops."""
        kept: set[str] = set() if is_stopping() else tags_with_the_pool()
        delivered = [tag for tag in self._delivered or () if tag not in kept]
        self._delivered.clear()
        stock_ones = [tag for tag in delivered if tag not in self.channel.holdings]
        self.channel.keeper.give_back(delivered)
        with suppress(*REDIS_AWAY):
            for tag in stock_ones:
                self.restore_by_tag(tag)

    @cached_property
    def visibility_timeout(self) -> float:
        """For kombu's own sweep, which here is for what stock workers left behind."""
        return max(_STOCK_VISIBILITY_TIMEOUT_S, self.channel.visibility_timeout)


class Poller(_StockPoller):
    """kombu's own, for a connection that is told instead of waiting in a BRPOP."""

    def on_poll_start(self) -> None:
        """See kombu. Fetching needs no room here: it asks for no more than there is, and settles what is done."""
        for channel in self._channels:
            if channel.active_queues:
                self._register_BRPOP(channel)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        """See kombu."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        return channel._brpop_read() if kind == "BRPOP" else super().on_readable(fileno)

    def _register(self, channel: Channel, client: Any, type: str) -> None:
        super()._register(channel, client, type)
        if type == "BRPOP":
            channel.be_told()


class Channel(_StockChannel):
    """kombu's own, with another way to consume. Its names BRPOP and `_brpop_...` stay: kombu calls them."""

    QoS = QoS

    #: Transport options; the visibility timeout is the time for which a lease lasts.
    visibility_timeout: float = 30.0
    lease_renewal_s: float | None = None
    longest_hold_s: float = 3600.0
    max_deaths: int = 3

    from_transport_options = (
        *_StockChannel.from_transport_options,
        "lease_renewal_s",
        "longest_hold_s",
        "max_deaths",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See kombu."""
        self._unrecorded: set[str] = set()
        self._lists: list[tuple[str, str]] = []
        self._told = False
        self._may_be_more = True
        self._asked_at = float("-inf")
        self._settling: list[Lease] = []
        self._send_text = False
        self._fetched: deque[tuple[str, Message]] = deque()
        self._suspects: deque[tuple[str, Message]] = deque()
        self._suspect = ""
        super().__init__(*args, **kwargs)

    # What it holds.

    @cached_property
    def keeper(self) -> LeaseKeeper:
        """Who keeps what this process holds of this broker."""
        return keeper_for(self)

    @property
    def holdings(self) -> Holdings:
        """What this process holds of this broker."""
        return self.keeper.holdings

    @property
    def backlog(self) -> int:
        """How many messages were fetched and not delivered yet."""
        return len(self._fetched) + len(self._suspects)

    def take_backlog(self) -> list[str]:
        """The tags of what was fetched and will not be delivered any more."""
        tags = [_tag(message) for _, message in (*self._fetched, *self._suspects)]
        self._fetched.clear()
        self._suspects.clear()
        return tags

    def bury(self, delivery_tag: str, reason: str) -> None:
        """Put a delivered message among the dead letters."""
        cast(QoS, self.qos).reject(delivery_tag, requeue=False, reason=reason)

    # What kombu calls.

    @cached_property
    def client(self) -> Any:
        """The client whose connection fetches. RESP3: the server speaks unasked on it."""
        params: dict[str, Any] = {**self._connparams(asynchronous=True), "protocol": 3}
        return self.Client(connection_pool=redis.ConnectionPool(**params))

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        """See kombu; notes which queues nobody acknowledges."""
        if no_ack:
            self._unrecorded.add(queue)
        answer = super().basic_consume(queue, no_ack, *args, **kwargs)
        self._may_be_more = True
        if queue not in self.active_fanout_queues:
            self.keeper.start(lambda: not self.closed)
        return answer

    def close(self) -> None:
        """See kombu. A reply that is on its way is read, and what was not delivered is given back."""
        self._closing = True
        with suppress(*REDIS_AWAY):
            # What comes first may be a notice.
            while self._in_poll:
                self._brpop_read()
        self._in_poll = None
        self._bring_back_settled()
        if "keeper" in self.__dict__:
            # kombu asks for it only where something was delivered.
            self.keeper.give_back(self.take_backlog())
        pool = self.client.connection_pool if "client" in self.__dict__ else None
        try:
            super().close()
        finally:
            if pool is not None:
                pool.disconnect()

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for all short commands: kombu makes one for each, which costs more than the command."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        pool = self.pool
        shared = self.__dict__.get("_shared_client")
        if shared is None or shared.connection_pool is not pool:
            shared = self.__dict__["_shared_client"] = super()._create_client()
        return shared

    # The fetch.

    def be_told(self) -> None:
        """Let the server tell this connection, which is new, when a list that it found empty has changed."""
        connection = self.client.connection
        connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP", check_health=False)
        try:
            connection.read_response()
            self._told = True
        except ResponseError:
            log.warning(
                "the broker does not know CLIENT TRACKING: workers look for messages every %g s", _LOOK_UNTOLD_S
            )
            self._told = False
        self._may_be_more = True
        self._bring_back_settled()

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask the server, where there is a reason to. Called at each turn of the event loop, unless it was asked."""
        self._deliver_next_suspect()
        room = cast(QoS, self.qos).room() if self._should_look() else 0
        if not room and not self.holdings.has_settled:
            return
        queues = self._queue_cycle.consume(len(self.active_queues)) if room else []
        self._lists = [
            (queue, f"{self.global_keyprefix}{self._q_for_pri(queue, step)}")
            for step in self.priority_steps
            for queue in queues
        ]
        self._settling = self.holdings.take_settled()
        keys, args = self.keeper.deliveries.fetch_command(
            room,
            [key for _, key in self._lists],
            [queue not in self._unrecorded for queue, _ in self._lists],
            self._settling,
        )
        command = ("EVAL", FETCH.text) if self._send_text else ("EVALSHA", FETCH.sha)
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = self._asked_at = monotonic()
        # A test of the connection before would connect anew where it fails, and the poller would not know.
        connection.send_command(*command, len(keys), *keys, *args, check_health=False)

    def _should_look(self) -> bool:
        again_s = _LOOK_AGAIN_S if self._told else _LOOK_UNTOLD_S
        return self._may_be_more or monotonic() - self._asked_at > again_s

    def _brpop_read(self, **options: Any) -> bool:
        """Read whatever the server says: the reply to the last call, or that a list has changed."""
        connection = self.client.connection
        try:
            self._read(connection)
            # Several may have come at once, and the socket will not tell of those that are read already.
            while connection.can_read(timeout=0):
                self._read(connection)
        except self.connection_errors:
            # So that the next turn of the event loop connects anew.
            connection.disconnect()
            raise
        self._deliver_fetched()
        return True

    def _read(self, connection: Any) -> None:
        try:
            said = connection.read_response(disable_decoding=True, push_request=True)
        except NoScriptError:
            self._send_text = True
            self._ask_again()
            return
        except ResponseError as error:
            # Such as a server that became a replica, or whose disk is full: Celery connects anew until it is well.
            self._ask_again()
            raise RedisConnectionError(f"the broker refused a fetch ({type(error).__name__})") from None
        if isinstance(said, list) and self._in_poll:
            self._take(cast("list[Any]", said))
        else:
            self._may_be_more = True

    def _ask_again(self) -> None:
        """The call failed: nothing was taken, and nothing settled."""
        self._in_poll = None
        self._bring_back_settled()

    def _bring_back_settled(self) -> None:
        self.holdings.bring_back_settled(self._settling)
        self._settling = []

    def _take(self, reply: list[Any]) -> None:
        """Hold what was fetched."""
        self._in_poll = None
        self._send_text = False
        self._settling = []
        if not self._lists:
            return
        room_left, buried = reply[:2]
        self._may_be_more = not room_left
        if buried:
            log.error("%d items of the queues are no messages: they are dead letters now", buried)
        for number, tag, raw in zip(reply[2::3], reply[3::3], reply[4::3], strict=True):
            queue, list_key = self._lists[int(number) - 1]
            self._hold(queue, Lease(tag.decode(), list_key), raw)

    def _hold(self, queue: str, lease: Lease, raw: bytes) -> None:
        message = message_in(raw)
        if message is None or _tag(message) != lease.tag:
            log.error("a message of the queue %s cannot be read: it is a dead letter", queue)
            self.keeper.deliveries.bury_unreadable(lease, raw)
            return
        if queue not in self._unrecorded:
            self.holdings.hold(Held(lease, message))
        self._fetched.append((queue, message))

    def _deliver_fetched(self) -> None:
        """Hand the messages to their consumers."""
        while self._fetched and not self._closing:
            queue, message = self._fetched.popleft()
            if self._must_wait(message):
                self._suspects.append((queue, message))
                self._record(message, as_waiting(message))
            else:
                self._hand_over(queue, message)

    def _must_wait(self, message: Message) -> bool:
        """One more death and it is buried, so it must not die of another one: such messages run one at a time."""
        if deaths_of(message) < max(1, self.max_deaths - 1):
            return False
        if self._suspect in self.holdings and self._suspect != _tag(message):
            return True
        self._suspect = _tag(message)
        return False

    def _deliver_next_suspect(self) -> None:
        if not self._suspects or self._suspect in self.holdings:
            return
        queue, message = self._suspects[0]
        if self._record(message, message):
            self._fetched.append((queue, message))
        self._suspects.popleft()
        self._deliver_fetched()

    def _record(self, held: Message, now: Message) -> bool:
        """Record what is held as it is now; whether it is still held."""
        mine = self.holdings.get(_tag(held))
        return mine is not None and self.keeper.deliveries.adopt(mine.lease, now)

    def _hand_over(self, queue: str, message: Message) -> None:
        try:
            self.connection._deliver(message, queue)
        except (*self.connection_errors, ResponseError, OperationalError):
            raise
        except Exception as error:  # noqa: BLE001 (whatever is wrong with it must not end the worker)
            # The text of the error may quote the message.
            log.error("a message of the queue %s cannot be read (%s): it is a dead letter", queue, type(error).__name__)  # noqa: TRY400
            self.bury(_tag(message), "it cannot be read")


class Transport(stock.Transport):
    """What Celery's setting `broker_transport` names."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See kombu."""
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


def _tag(message: Message) -> str:
    return message["properties"]["delivery_tag"]
