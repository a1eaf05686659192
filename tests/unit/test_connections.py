"""Connections to Redis: what differs from redis-py's own."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Connection
from redis.exceptions import DataError

from kagura_tasks.connections import async_client
from kagura_tasks.settings import RedisUrl
from kagura_tasks.subscriptions import subscriptions
from tests.support.wait import until

ARGUMENTS = st.lists(st.one_of(st.text(), st.binary(), st.integers(), st.floats()))


class Step(IntEnum):
    FIRST = 1


def ours() -> Connection:
    """A connection as our clients make them, which is not open."""
    return async_client(RedisUrl("redis://localhost:1/0"), 1.0).connection_pool.make_connection()


@given(name=st.sampled_from(["GET", "CLIENT TRACKING"]), rest=ARGUMENTS)
async def test_a_command_is_written_as_redis_py_writes_it(name: str, rest: list[object]):
    """Byte for byte, whatever its arguments are."""
    assert b"".join(ours().pack_command(name, *rest)) == b"".join(Connection().pack_command(name, *rest))


async def test_what_is_large_has_a_connection_of_its_own(redis_url: RedisUrl, client_of_redis: Any):
    """All others would wait until it is through."""
    client: Any = async_client(redis_url, 5.0)

    def connections() -> int:
        return client_of_redis.info("clients")["connected_clients"]

    await asyncio.gather(*(client.get("nothing") for _ in range(50)))
    before = connections()
    text = "x" * 200_000
    assert await client.eval("return #ARGV[1]", 0, "short") == 5
    assert connections() == before
    assert await client.eval("return #ARGV[1]", 0, text) == len(text)
    assert connections() == before + 1


async def test_what_is_no_argument_is_refused():
    """By redis-py, as ever; and it knows what else is one."""
    for wrong in (None, True, {}):
        with pytest.raises(DataError):
            ours().pack_command("SET", "key", wrong)
    assert b"".join(ours().pack_command(b"SET", Step.FIRST)) == b"".join(Connection().pack_command(b"SET", Step.FIRST))


def test_connections_end_with_their_loop(redis_url: RedisUrl, client_of_redis: Any):
    """`asyncio.run` closes all kinds of them: nothing is left for the garbage collector, which would warn."""

    def connections() -> int:
        return client_of_redis.info("clients")["connected_clients"]

    async def asks() -> list[object]:
        client: Any = async_client(redis_url, 5.0)
        hub = subscriptions(redis_url, 5.0)
        with hub.listen("kagura:test") as listener:
            await listener.confirmed(5.0)
            await asyncio.gather(client.get("nothing"), client.eval("return 1", 0, "x" * 200_000))
        assert connections() == before + 3
        return [client, hub]

    before = connections()
    held = asyncio.run(asks())
    until(lambda: connections() == before)
    assert held
