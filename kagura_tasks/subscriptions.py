"""Many waiters, one pub/sub connection an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, cast

from redis.exceptions import ConnectionError as RedisConnectionError

from kagura_tasks.connections import REDIS_AWAY, async_client, before_closing
from kagura_tasks.loops import PerLoop
from kagura_tasks.redis_types import AsyncRedis
from kagura_tasks.settings import RedisUrl

log = logging.getLogger(__name__)

#: Pause before the next try to reach a server that is away (s), and how often a silent connection is tested (s).
_RECONNECT_S: Final = 0.2
_HEALTH_CHECK_S: Final = 10.0

#: Seconds without a listener after which the connection is closed: whoever calls again soon finds it open.
_IDLE_S: Final = 60.0

#: Always subscribed to, so that the connection stays one of pub/sub while nobody listens. Nothing is published there.
_IDLE_CHANNEL: Final = "kagura:idle"

#: What sending on a connection raises that breaks. (redis-py 8.1 misses its writer where it is closed meanwhile.)
_BROKEN: Final = (*REDIS_AWAY, AttributeError)

#: Payloads a listener may leave unread; beyond it the oldest go, and it is told to look for itself.
_BACKLOG: Final = 256


class Heard(NamedTuple):
    """What was published, and where."""

    channel: str
    payload: bytes


class Listener:
    """One waiter, on one channel or several."""

    def __init__(self, confirmed: Sequence[asyncio.Future[None]]) -> None:
        """Take the futures that are done when the server has confirmed the subscriptions."""
        self._confirmed = confirmed
        self._heard: asyncio.Queue[Heard | None] = asyncio.Queue(_BACKLOG)

    async def next(self, timeout_s: float | None) -> bytes | None:
        """The next payload; None: something may have been missed, look for yourself. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            heard = await self._heard.get()
        return heard.payload if heard else None

    async def next_batch(self, timeout_s: float | None) -> list[Heard | None]:
        """All that is there; waits for the first. See `next`."""
        if self._heard.empty():
            async with asyncio.timeout(timeout_s):
                batch = [await self._heard.get()]
        else:
            batch: list[Heard | None] = []
        while not self._heard.empty():
            batch.append(self._heard.get_nowait())
        return batch

    async def confirmed(self, timeout_s: float | None) -> None:
        """Return when what is published from now on will arrive. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            for confirmed in self._confirmed:
                await asyncio.shield(confirmed)

    def offer(self, heard: Heard | None) -> None:
        """Hand over what was heard. A waiter that lags loses some of it, and is told so with None."""
        if self._heard.full():
            self._heard.get_nowait()
            self._heard.get_nowait()
            self._heard.put_nowait(None)
        self._heard.put_nowait(heard)


class _Wire:
    """One connection of pub/sub, used until it breaks, and never again.

    redis-py's own PubSub connects anew wherever it notices a break: here several tasks would, at the same time, and
    connections would go missing from the pool.
    """

    def __init__(self, client: AsyncRedis) -> None:
        """Take the client whose server it is. It stands beside the client's pool."""
        self._connection = cast(Any, client).connection_pool.make_connection()

    async def open(self, channels: Iterable[str]) -> None:
        """Connect and subscribe."""
        await self._connection.connect()
        self.send("SUBSCRIBE", *channels)

    def send(self, *words: str) -> None:
        """Send a command, soon; its answer is among the frames. Who reads them finds out where it cannot be sent."""
        if not self._connection.is_connected:
            raise RedisConnectionError("the connection was closed")
        self._connection.write(b"".join(self._connection.pack_command(*words)))

    async def frame(self, timeout_s: float) -> list[object] | None:
        """The next thing that comes; None where nothing does in time."""
        read = self._connection.read_response
        found: object = await read(timeout=timeout_s, disconnect_on_error=False, push_request=True)
        return cast("list[object]", found) if isinstance(found, list | None) else [found]

    async def close(self) -> None:
        """Close it."""
        await self._connection.disconnect()


class Subscriptions:
    """The channels that this event loop listens to, over one connection that is made anew when it breaks."""

    def __init__(self, client: AsyncRedis) -> None:
        """Take the loop's client. Nothing is sent before somebody listens."""
        self._client = client
        self._listeners: dict[str, set[Listener]] = {}
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._wire: _Wire | None = None
        self._reader: asyncio.Task[None] | None = None

    @contextmanager
    def listen(self, *channels: str) -> Generator[Listener]:
        """A listener on the channels; what is published once it is `confirmed` arrives.

        Nothing in it is asynchronous: when a loop ends, asyncio closes all asynchronous generators at once, also one
        that another is in the middle of, whose end then fails.
        """
        loop = asyncio.get_running_loop()
        listener = Listener([self._confirmations.setdefault(channel, loop.create_future()) for channel in channels])
        unheard = [channel for channel in channels if channel not in self._listeners]
        for channel in channels:
            self._listeners.setdefault(channel, set()).add(listener)
        try:
            if unheard:
                self._subscribe(unheard)
            yield listener
        finally:
            self._leave(channels, listener)

    async def close(self) -> None:
        """Close the connection. Listeners hear nothing more."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._reader = None

    def _subscribe(self, channels: Sequence[str]) -> None:
        if self._reader is None:
            # The reader subscribes to all channels when it connects, these among them.
            self._reader = asyncio.create_task(self._read_until_idle(), name="kagura-subscriptions")
        elif self._wire is not None:
            with suppress(*_BROKEN):
                self._wire.send("SUBSCRIBE", *channels)

    def _leave(self, channels: Sequence[str], listener: Listener) -> None:
        for channel in channels:
            self._listeners[channel].discard(listener)
        unheard = [channel for channel in channels if not self._listeners[channel]]
        for channel in unheard:
            del self._listeners[channel]
            del self._confirmations[channel]
        if unheard and self._wire is not None:
            with suppress(*_BROKEN):
                self._wire.send("UNSUBSCRIBE", *unheard)

    async def _read_until_idle(self) -> None:
        """Serve listeners, over one connection after the other, until there has been none for a while."""
        while True:
            wire = _Wire(self._client)
            try:
                known = set(self._listeners)
                await wire.open({_IDLE_CHANNEL, *known})
                self._wire = wire
                if late := self._listeners.keys() - known:
                    wire.send("SUBSCRIBE", *late)  # they came while the connection was being made
                await self._read(wire)
                self._reader = None
                return
            except _BROKEN as error:
                if not self._listeners:
                    self._reader = None
                    return
                log.warning("the subscription to Redis broke (%s): connecting anew", type(error).__name__)
                self._wire = None
                self._wake_all()
                await asyncio.sleep(_RECONNECT_S)
            finally:
                self._wire = None
                with suppress(*_BROKEN):
                    await wire.close()

    async def _read(self, wire: _Wire) -> None:
        """Deliver what comes. Returns when nobody has listened for a while; raises where the server is silent."""
        asked, idle_s = False, 0.0
        while idle_s < _IDLE_S:
            idle_s = 0.0 if self._listeners else idle_s
            frame = await wire.frame(_HEALTH_CHECK_S)
            if frame is None and asked:
                raise RedisConnectionError("the server does not answer")
            asked = frame is None
            match frame:
                case None:
                    idle_s += 0.0 if self._listeners else _HEALTH_CHECK_S
                    wire.send("PING")
                case [b"subscribe", bytes(channel), *_]:
                    self._confirm(channel.decode())
                case [b"message", bytes(channel), bytes(payload)]:
                    self._deliver(channel.decode(), payload)
                case _:
                    pass

    def _confirm(self, channel: str) -> None:
        confirmed = self._confirmations.get(channel)
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)
            return
        for listener in self._listeners.get(channel, ()):
            listener.offer(None)

    def _deliver(self, channel: str, payload: bytes) -> None:
        heard = Heard(channel, payload)
        for listener in self._listeners.get(channel, ()):
            listener.offer(heard)

    def _wake_all(self) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.offer(None)


_subscriptions = PerLoop(dict[RedisUrl, Subscriptions])


def subscriptions(url: RedisUrl, timeout_s: float) -> Subscriptions:
    """The running event loop's subscriptions on this address."""
    by_url = _subscriptions.here()
    if url not in by_url:
        opened = by_url[url] = Subscriptions(async_client(url, timeout_s))

        async def close() -> None:
            del by_url[url]
            await opened.close()

        before_closing(close)
    return by_url[url]
