"""Many callers on one event loop share round trips to Redis, and each gets its own answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import psutil
import pytest_asyncio
import redis
from redis.exceptions import NoScriptError, ResponseError

from kagura_tasks.connections import REDIS_AWAY, async_client, close_async_clients
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import RedisUrl

TIMEOUT_S = 0.5


@pytest_asyncio.fixture
async def client(redis_url: RedisUrl) -> Any:
    """The loop's client."""
    return async_client(redis_url, TIMEOUT_S)


async def test_each_gets_its_own_answer(client: Any):
    """However many ask at once, and whatever they ask for."""

    async def keep(number: int) -> tuple[bytes | None, int]:
        await client.set(f"key-{number}", str(number), ex=10)
        return await client.get(f"key-{number}"), await client.hincrby("counts", str(number), number)

    await client.hincrby("counts", "0", 0)
    await client.expire("counts", 10)
    found = await asyncio.gather(*(keep(number) for number in range(1, 1001)))
    await client.delete("counts")
    assert found == [(str(number).encode(), number) for number in range(1, 1001)]


async def test_those_who_ask_at_once_need_few_connections(client: Any, client_of_redis: redis.Redis):
    """One is alone on its way; the others leave together."""
    before = len(client_of_redis.client_list())
    await asyncio.gather(*(client.get("nothing") for _ in range(150)))
    assert len(client_of_redis.client_list()) - before <= 2


async def test_an_error_is_its_callers_alone(client: Any):
    """Such as a script that the server does not know, or a command that it has not."""
    asked = [client.get("nothing"), client.evalsha("f" * 40, 0), client.execute_command("NO-SUCH"), client.get("no")]
    nothing, script, command, no = await asyncio.gather(*asked, return_exceptions=True)
    assert nothing is no is None
    assert isinstance(script, NoScriptError)
    assert isinstance(command, ResponseError)


async def test_who_leaves_takes_nobody_along(client: Any):
    """A caller that is cancelled, first in line or later."""
    tasks = [asyncio.create_task(client.get("nothing")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in found] == [True, False, True, False, False]


async def test_who_asks_while_the_server_hangs_waits_for_its_own_timeout_alone():
    """Not for that of the round trip before it as well."""
    with EmbeddedRedis(os.environ.get("KAGURA_TEST_REDIS_SERVER")) as server:
        client: Any = async_client(RedisUrl(server.url), TIMEOUT_S)
        await asyncio.gather(*(client.ping() for _ in range(3)))
        process = psutil.Process((await client.info("server"))["process_id"])
        process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            found = await asyncio.gather(*(client.ping() for _ in range(10)), return_exceptions=True)
            took_s = time.monotonic() - started
        finally:
            process.send_signal(signal.SIGCONT)
        assert all(isinstance(one, REDIS_AWAY) for one in found)
        # redis-py tries twice to connect where it needs a further connection.
        assert took_s < TIMEOUT_S * 2.6
        await close_async_clients()
