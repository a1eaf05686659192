"""Writes the results of all tasks of an event loop, and waits for Redis where it is away."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import Final, NamedTuple

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.loops import PerLoop
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import Argument, AsyncRedis
from kagura_tasks.settings import RedisUrl

log = logging.getLogger(__name__)

#: Seconds between two tries while Redis is away, and how many there are: a minute and a half in all.
_RETRY_S: Final = 0.5
_MOST_TRIES: Final = 180


class Write(NamedTuple):
    """A script that keeps a result, with its keys and arguments. Run twice, it does no more than once."""

    script: LuaScript
    keys: tuple[str, ...]
    args: tuple[Argument, ...]


class ResultWriter:
    """Keeps results. Those of one turn of the event loop leave together, as all that its client is asked for does."""

    def __init__(self, client: AsyncRedis) -> None:
        """Take the event loop's client."""
        self._client = client
        self._is_told = False

    async def store(self, result: Write) -> None:
        """Return when it is stored, or was refused. Redis is waited for while it is away, or full; not for ever.

        Stored twice, a result is the same. Raises redis-py's errors.
        """
        for tries in count(1):
            try:
                await result.script.arun(self._client, list(result.keys), list(result.args))
            except CANNOT_WRITE_NOW as error:
                self._tell(error)
                if tries == _MOST_TRIES:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                self._is_told = False
                return

    def _tell(self, error: Exception) -> None:
        """Once for each time that Redis is away."""
        if not self._is_told:
            log.warning("results cannot be stored: Redis is away, or full (%s)", type(error).__name__)
        self._is_told = True


_writers = PerLoop(dict[RedisUrl, ResultWriter])


def result_writer(url: RedisUrl, timeout_s: float) -> ResultWriter:
    """The writer of the running event loop for this address."""
    by_url = _writers.here()
    if url not in by_url:
        by_url[url] = ResultWriter(async_client(url, timeout_s))
    return by_url[url]
