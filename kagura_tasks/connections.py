"""Connections to Redis: one pool a process and address, one more for each event loop; timeouts everywhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs, urlsplit
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.redis_types import AsyncRedis, SyncRedis
from kagura_tasks.settings import RedisUrl

#: What redis-py raises where the server is away, hangs, or is not ready yet.
REDIS_AWAY = (RedisConnectionError, RedisTimeoutError)

#: What keeps a write from succeeding now, and may not in a moment: a server that is full as well.
CANNOT_WRITE_NOW = (*REDIS_AWAY, OutOfMemoryError)

#: What is worth an immediate second try: a connection that was dropped while it was idle. A server that hangs is not.
_DROPPED = (RedisConnectionError,)

#: redis-py's pools refuse further connections instead of waiting; ours wait. A command takes well under a
#: millisecond, so that this many connections serve thousands of calls.
_MAX_CONNECTIONS = 32

#: Commands in one round trip, and for how long (s) one waits for the round trip before its own.
_MOST_TOGETHER = 200
_LONGEST_WAIT_S = 0.01

#: The types of nearly all arguments of commands, and how they are written.
_WRITERS: dict[type, Callable[[Any], bytes]] = {bytes: bytes, str: str.encode, int: b"%d".__mod__}

_StockAsyncRedis: Any = redis.asyncio.Redis

_async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[RedisUrl, float], AsyncRedis]]
_async_clients = WeakKeyDictionary()
_closers: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Callable[[], Awaitable[None]]]] = WeakKeyDictionary()


@lru_cache(maxsize=32)
def sync_client(url: RedisUrl, timeout_s: float) -> SyncRedis:
    """The process's client for this address. Opens no connection yet."""
    pool = cast(Any, redis.BlockingConnectionPool).from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=_DROPPED),
    )
    return cast(SyncRedis, redis.Redis(connection_pool=pool))


def async_client(url: RedisUrl, timeout_s: float) -> AsyncRedis:
    """The running event loop's client for this address. Opens no connection yet."""
    clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get((url, timeout_s))
    if client is None:
        pool = cast(Any, redis.asyncio.BlockingConnectionPool).from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=AsyncRetry(NoBackoff(), 1, supported_errors=_DROPPED),
        )
        pool.connection_class = _interruptible(pool.connection_class)
        client = clients[url, timeout_s] = cast(AsyncRedis, _SharingRedis.from_pool(pool))
    return client


@lru_cache
def _interruptible(kind: Any) -> Any:
    """The class of connections, whose users can be cancelled at any time, and whose commands are quickly written.

    redis-py sends through `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes when all is sent.
    And it asks each argument for a dozen types: a call's commands have forty.
    """

    class Interruptible(kind):
        def pack_command(self, *args: Any) -> list[bytes]:
            """See redis-py. Whatever is unusual goes its way."""
            name, *rest = args
            if type(name) is not str or any(type(one) not in _WRITERS for one in rest):
                stock: Any = super()
                return stock.pack_command(*args)
            words = [*name.encode().split(), *[_WRITERS[type(one)](one) for one in rest]]
            return [b"".join([b"*%d\r\n" % len(words), *[b"$%d\r\n%b\r\n" % (len(word), word) for word in words]])]

        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            """See redis-py."""
            if not self.is_connected:
                await self.connect_check_health(check_health=False)
            if check_health:
                await self.check_health()
            try:
                async with asyncio.timeout(self.socket_timeout):
                    await self._send_packed_command([command] if isinstance(command, bytes) else command)
            except TimeoutError:
                await self.disconnect(nowait=True)
                raise RedisTimeoutError("Timeout writing to socket") from None
            except OSError as error:
                await self.disconnect(nowait=True)
                raise RedisConnectionError("Error while writing to socket") from error
            except BaseException:
                await self.disconnect(nowait=True)
                raise

    return Interruptible


class _SharingRedis(_StockAsyncRedis):
    """redis-py's own, whose callers share round trips: what is asked for while another is on its way leaves together.

    A round trip costs an event loop several times what a command in it does. Who is alone pays nothing for this, and
    who asks while a server hangs waits no longer than its own timeout.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """See redis-py."""
        stock: Any = super()
        stock.__init__(*args, **options)
        self._trips = 0
        self._waiting: list[_Asked] = []
        self._sendings: set[asyncio.Task[None]] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        if self._trips:
            return await self._together(args, options)
        stock: Any = super()
        self._trips += 1
        try:
            return await stock.execute_command(*args, **options)
        finally:
            self._trips -= 1
            self._send_waiting()

    async def _together(self, args: Any, options: Any) -> Any:
        loop = asyncio.get_running_loop()
        asked = _Asked(args, options, loop.create_future())
        if not self._waiting:
            loop.call_later(_LONGEST_WAIT_S, self._send_waiting)
        self._waiting.append(asked)
        return await asked.answer

    def _send_waiting(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
            sending = asyncio.get_running_loop().create_task(self._send(some), name="kagura-redis")
            self._sendings.add(sending)
            sending.add_done_callback(self._sendings.discard)

    async def _send(self, several: list[_Asked]) -> None:
        self._trips += 1
        try:
            answers = await self._pipelined(several)
        except Exception as error:  # noqa: BLE001 (handed to those who wait)
            answers = [error] * len(several)
        except asyncio.CancelledError:  # the loop ends
            for asked in several:
                asked.answer.cancel()
            raise
        finally:
            self._trips -= 1
            self._send_waiting()
        for asked, answer in zip(several, answers, strict=True):
            asked.settle(answer)

    async def _pipelined(self, several: list[_Asked]) -> list[object]:
        async with self.pipeline(transaction=False) as pipeline:
            for asked in several:
                pipeline.execute_command(*asked.args, **asked.options)
            return await pipeline.execute(raise_on_error=False)


class _Asked(NamedTuple):
    """A command, and who waits for its answer."""

    args: Any
    options: Any
    answer: asyncio.Future[Any]

    def settle(self, answer: object) -> None:
        """Hand the answer over, or the error."""
        if self.answer.done():  # who waited was cancelled
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


def before_closing(close: Callable[[], Awaitable[None]]) -> None:
    """Call this before the running loop's connections are closed: whoever reads from one has to stop first."""
    _closers.setdefault(asyncio.get_running_loop(), []).append(close)


async def close_async_clients() -> None:
    """Close the running loop's connections, so that none is left open when the loop ends."""
    for close in _closers.pop(asyncio.get_running_loop(), []):
        await close()
    for client in _async_clients.pop(asyncio.get_running_loop(), {}).values():
        await client.aclose()


@contextmanager
def redis_errors(url: RedisUrl) -> Generator[None]:
    """Translate a server that is away into RedisUnreachable, which names the masked address."""
    try:
        yield
    except REDIS_AWAY as error:
        raise RedisUnreachable(url.masked(), _in_few_words(error)) from None


def celery_url(url: RedisUrl) -> str:
    """The same address as kombu and Celery spell it: they write a socket as redis+socket://."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return str(url)
    database = parse_qs(parts.query).get("db", ["0"])[0]
    login = f"{parts.netloc}" if parts.netloc else ""
    return f"redis+socket://{login}{parts.path}?virtual_host={database}"


def _in_few_words(error: Exception) -> str:
    """The reason, without redis-py's text: it repeats the address."""
    if isinstance(error, RedisTimeoutError):
        return "no answer in time"
    refused = any(sign in str(error).lower() for sign in ("refused", "error 111", "connect call failed"))
    return "connection refused" if refused else type(error).__name__


def _forget_connections() -> None:
    # A forked child must not talk on its parent's sockets.
    sync_client.cache_clear()
    _async_clients.clear()


os.register_at_fork(after_in_child=_forget_connections)
