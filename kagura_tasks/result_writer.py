"""Writes the results of all tasks of an event loop, those of one moment in one round trip."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from redis.exceptions import NoScriptError, OutOfMemoryError

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import Argument, AsyncRedis
from kagura_tasks.settings import RedisUrl

log = logging.getLogger(__name__)

#: Seconds between two tries while Redis is away, and how many there are: a minute and a half in all.
_RETRY_S: Final = 0.5
_MOST_TRIES: Final = 180

#: Results in one pipeline.
_MOST_AT_ONCE: Final = 200


class Write(NamedTuple):
    """A script that keeps a result, with its keys and arguments. Run twice, it does no more than once."""

    script: LuaScript
    keys: tuple[str, ...]
    args: tuple[Argument, ...]


class ResultWriter:
    """Collects results while others are on their way, and sends them together."""

    def __init__(self, client: AsyncRedis) -> None:
        """Take the event loop's client."""
        self._client = client
        self._waiting: list[tuple[Write, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def store(self, result: Write) -> None:
        """Return when it is stored, or was refused. Redis is waited for while it is away, or full; not for ever."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((result, stored))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="kagura-results")
        await stored

    async def _write(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            try:
                outcomes = await self._send([result for result, _ in some])
            except Exception as error:  # noqa: BLE001 (handed to whoever waits)
                outcomes = [error] * len(some)
            for (_, stored), outcome in zip(some, outcomes, strict=True):
                _settle(stored, outcome)

    async def _send(self, results: list[Write]) -> list[object]:
        """What the server said to each; tried again while it is away, or full. Stored twice, a result is the same."""
        tries = 0
        while True:
            try:
                return await self._send_once(results)
            except CANNOT_WRITE_NOW as error:
                tries += 1
                if tries == 1:
                    log.warning("results cannot be stored: Redis is away, or full (%s)", type(error).__name__)
                if tries == _MOST_TRIES:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _send_once(self, results: list[Write]) -> list[object]:
        outcomes = await self._pipelined(results)
        if any(isinstance(outcome, NoScriptError) for outcome in outcomes):
            for script in {result.script for result in results}:
                await self._client.script_load(script.text)
            outcomes = await self._pipelined(results)
        for outcome in outcomes:
            if isinstance(outcome, OutOfMemoryError):
                raise outcome
        return outcomes

    async def _pipelined(self, results: list[Write]) -> list[object]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for script, keys, args in results:
                pipeline.evalsha(script.sha, len(keys), *keys, *args)
            return await pipeline.execute(raise_on_error=False)


def _settle(stored: asyncio.Future[None], outcome: object) -> None:
    if stored.done():  # whoever waited was cancelled
        return
    if isinstance(outcome, Exception):
        stored.set_exception(outcome)
    else:
        stored.set_result(None)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[RedisUrl, ResultWriter]] = WeakKeyDictionary()


def result_writer(url: RedisUrl, timeout_s: float) -> ResultWriter:
    """The writer of the running event loop for this address."""
    by_url = _by_loop.setdefault(asyncio.get_running_loop(), {})
    if url not in by_url:
        by_url[url] = ResultWriter(async_client(url, timeout_s))
    return by_url[url]
