"""Connections to Redis: one pool a process and address, one more for each event loop; timeouts everywhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.loops import PerLoop, at_loop_end
from kagura_tasks.redis_line import Line, packed
from kagura_tasks.redis_loans import Loans
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

#: What is larger than this, or may have an answer that is, has a connection of its own: all others would wait for it.
_MOST_BYTES = 64 * 2**10
_LONG_ANSWERS = frozenset({"GETRANGE"})

_StockRedis: Any = redis.Redis
_StockAsyncRedis: Any = redis.asyncio.Redis

_async_clients = PerLoop(dict[tuple[RedisUrl, float], AsyncRedis])
_closers = PerLoop(list[Callable[[], Awaitable[None]]])
_ends = PerLoop(lambda: at_loop_end(close_async_clients))


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
    return cast(SyncRedis, _LendingRedis(connection_pool=pool))


def async_client(url: RedisUrl, timeout_s: float) -> AsyncRedis:
    """The running event loop's client for this address, closed when the loop ends. Opens no connection yet."""
    clients = _async_clients.here()
    client = clients.get((url, timeout_s))
    if client is None:
        _ = _ends.here()
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
    """The class of connections, whose users can be cancelled at any time, and which can carry a line.

    redis-py sends through `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes when all is sent.
    """

    class Interruptible(kind):
        def pack_command(self, *args: Any) -> list[bytes]:
            """See redis-py. Whatever is unusual goes its way."""
            command = packed(args)
            stock: Any = super()
            return stock.pack_command(*args) if command is None else [command]

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

        def write(self, data: bytes) -> None:
            """See LineConnection."""
            self._writer.write(data)

        async def next_answer(self) -> object:
            """See LineConnection."""
            try:
                return await self._parser.read_response()
            except ResponseError as error:
                return error

    return Interruptible


class _LendingRedis(_StockRedis):
    """redis-py's own, but for plain commands: they borrow their connection with less ado."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """See redis-py."""
        stock: Any = super()
        stock.__init__(*args, **options)
        pool = self.connection_pool
        how = pool.connection_kwargs
        self._loans = Loans(lambda: pool.connection_class(**how), _MAX_CONNECTIONS, how["socket_timeout"])

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        command = packed(args) if _is_plain(self, args, options) else None
        if command is not None:
            return self._loans.ask(command)
        stock: Any = super()
        return stock.execute_command(*args, **options)

    def close(self) -> None:
        """See redis-py."""
        self._loans.close()
        stock: Any = super()
        stock.close()


class _SharingRedis(_StockAsyncRedis):
    """redis-py's own, but for plain commands: all share one connection, and those of a moment share a round trip."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """See redis-py."""
        stock: Any = super()
        stock.__init__(*args, **options)
        pool = self.connection_pool
        how = pool.connection_kwargs
        self._line = Line(lambda: pool.connection_class(**how), how["socket_timeout"])

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        command = packed(args) if _is_plain(self, args, options) and args[0] not in _LONG_ANSWERS else None
        if command is not None and len(command) <= _MOST_BYTES:
            return await self._line.ask(command)
        stock: Any = super()
        return await stock.execute_command(*args, **options)

    async def aclose(self, *args: Any, **options: Any) -> None:
        """See redis-py."""
        await self._line.close()
        stock: Any = super()
        await stock.aclose(*args, **options)


def _is_plain(client: Any, args: Sequence[Any], options: Mapping[str, object]) -> bool:
    """redis-py makes nothing else of the command's answer (`keys` is for a cache on the client's side)."""
    return args[0] not in client.response_callbacks and options.keys() <= {"keys"}


def before_closing(close: Callable[[], Awaitable[None]]) -> None:
    """Call this before the running loop's connections are closed: whoever reads from one has to stop first."""
    _ = _ends.here()
    _closers.here().append(close)


async def close_async_clients() -> None:
    """Close the running loop's connections, so that none is left open when the loop ends."""
    for close in _closers.take() or []:
        await close()
    for client in (_async_clients.take() or {}).values():
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
