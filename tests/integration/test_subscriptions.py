"""Many waiters on one pub/sub connection: nobody misses anything without being told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from uuid import uuid4

import pytest
import pytest_asyncio
import redis

from kagura_tasks.connections import close_async_clients
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import RedisUrl
from kagura_tasks.subscriptions import Subscriptions, subscriptions
from tests.support.wait import auntil

WAIT_S = 20.0


@pytest.fixture(scope="module")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A server of these tests' own: they count its connections."""
    with EmbeddedRedis(os.environ.get("KAGURA_TEST_REDIS_SERVER")) as server:
        yield server


@pytest.fixture
def channel() -> str:
    """A channel of this test's own."""
    return f"kagura:test:{uuid4().hex}"


@pytest_asyncio.fixture
async def hub(redis_url: RedisUrl) -> Subscriptions:
    """The loop's subscriptions."""
    return subscriptions(redis_url, 2.0)


def connections(client: redis.Redis) -> list[dict[str, str]]:
    """The server's connections that subscribe to something."""
    return [one for one in client.client_list() if int(one["sub"]) > 0]


async def test_what_is_published_after_the_confirmation_arrives(
    hub: Subscriptions, client_of_redis: redis.Redis, channel: str
):
    """Once `confirmed` returns, every payload is delivered, in order."""
    with hub.listen(channel) as listener:
        await listener.confirmed(WAIT_S)
        for number in range(100):
            assert client_of_redis.publish(channel, str(number)) == 1
        assert [await listener.next(WAIT_S) for _ in range(100)] == [str(number).encode() for number in range(100)]


async def test_a_silent_channel_is_a_timeout(hub: Subscriptions, channel: str):
    """Waiting ends with TimeoutError, and can go on afterwards."""
    with hub.listen(channel) as listener:
        await listener.confirmed(WAIT_S)
        with pytest.raises(TimeoutError):
            await listener.next(0.01)


async def test_all_listeners_share_one_connection(hub: Subscriptions, client_of_redis: redis.Redis, channel: str):
    """Two listeners on one channel both hear it; one on another channel does not; the server sees one connection."""
    with hub.listen(channel) as first, hub.listen(channel) as second, hub.listen(channel + ":2") as other:
        for listener in (first, second, other):
            await listener.confirmed(WAIT_S)
        assert len(connections(client_of_redis)) == 1
        assert client_of_redis.publish(channel, "both") == 1
        client_of_redis.publish(channel + ":2", "other")
        assert [await listener.next(WAIT_S) for listener in (first, second, other)] == [b"both", b"both", b"other"]


async def test_listeners_that_come_while_it_connects_are_heard(
    hub: Subscriptions, client_of_redis: redis.Redis, channel: str
):
    """Whoever comes between the first subscription and its confirmation is subscribed, too."""

    async def hear(number: int) -> bytes | None:
        for _ in range(number):
            await asyncio.sleep(0)  # each comes a step of the loop later than the one before
        with hub.listen(f"{channel}:{number}") as listener:
            await listener.confirmed(WAIT_S)
            client_of_redis.publish(f"{channel}:{number}", str(number))
            return await listener.next(WAIT_S)

    assert await asyncio.gather(*(hear(number) for number in range(50))) == [str(n).encode() for n in range(50)]


async def test_a_broken_connection_wakes_everybody_and_is_made_anew(
    hub: Subscriptions, client_of_redis: redis.Redis, channel: str
):
    """Something may have been missed: each listener gets None, and from then on hears again."""
    with hub.listen(channel) as first, hub.listen(channel + ":2") as second:
        await first.confirmed(WAIT_S)
        await second.confirmed(WAIT_S)
        (connection,) = connections(client_of_redis)
        client_of_redis.client_kill_filter(_id=connection["id"])
        assert await first.next(WAIT_S) is None
        assert await second.next(WAIT_S) is None
        await auntil(lambda: _heard_by(client_of_redis, channel, 1), WAIT_S)
        assert await _next_payload(first) == b"hello"


async def test_a_server_that_comes_back_is_found(channel: str):
    """A server that dies and starts again wakes the listeners, which then hear again."""
    with EmbeddedRedis() as server:
        hub = subscriptions(server.url, 2.0)
        with hub.listen(channel) as listener:
            await listener.confirmed(WAIT_S)
            await asyncio.to_thread(server.kill)
            assert await listener.next(WAIT_S) is None
            await asyncio.to_thread(server.restart)
            with redis.Redis.from_url(server.url) as client:
                await auntil(lambda: _heard_by(client, channel, 1), WAIT_S)
            assert await _next_payload(listener) == b"hello"
        await close_async_clients()


async def test_the_last_one_to_leave_unsubscribes(
    hub: Subscriptions, client_of_redis: redis.Redis, channel: str, monkeypatch: pytest.MonkeyPatch
):
    """A channel stays subscribed while anybody listens, and no longer; a while later the connection goes, too."""
    monkeypatch.setattr("kagura_tasks.subscriptions._HEALTH_CHECK_S", 0.1)
    monkeypatch.setattr("kagura_tasks.subscriptions._IDLE_S", 0.3)
    with hub.listen(channel) as first:
        with hub.listen(channel), hub.listen(channel + ":2") as other:
            await first.confirmed(WAIT_S)
            await other.confirmed(WAIT_S)
        await auntil(lambda: _heard_by(client_of_redis, channel + ":2", 0), WAIT_S)
        assert client_of_redis.publish(channel, "still here") == 1
        assert await first.next(WAIT_S) == b"still here"
    await auntil(lambda: _heard_by(client_of_redis, channel, 0), WAIT_S)

    async def nobody_is_connected() -> bool:
        return not connections(client_of_redis)

    await auntil(nobody_is_connected, WAIT_S)


async def test_the_next_one_finds_the_connection_open(hub: Subscriptions, client_of_redis: redis.Redis, channel: str):
    """Calls one after the other share one connection: making one anew for each would cost several round trips."""
    first: set[str] = set()
    seen: set[str] = set()
    for number in range(3):
        with hub.listen(f"{channel}:{number}") as listener:
            await listener.confirmed(WAIT_S)
            seen = {connection["id"] for connection in connections(client_of_redis)}
            first = first or seen
    assert seen == first
    assert len(seen) == 1


async def test_one_can_come_back_to_a_channel(hub: Subscriptions, client_of_redis: redis.Redis, channel: str):
    """Leaving and coming back, again and again, is a new subscription each time."""
    for number in range(20):
        with hub.listen(channel) as listener:
            await listener.confirmed(WAIT_S)
            client_of_redis.publish(channel, str(number))
            assert await listener.next(WAIT_S) == str(number).encode()


async def test_a_slow_listener_is_told_that_it_missed_something(
    hub: Subscriptions, client_of_redis: redis.Redis, channel: str
):
    """Whoever does not read keeps the newest payloads and finds a None in front; the others miss nothing."""
    with hub.listen(channel) as slow, hub.listen(channel) as quick:
        await slow.confirmed(WAIT_S)
        for number in range(1000):
            client_of_redis.publish(channel, str(number))
            assert await quick.next(WAIT_S) == str(number).encode()
        left: list[bytes | None] = []
        while not left or left[-1] != b"999":
            left.append(await slow.next(WAIT_S))
    assert None in left
    assert len(left) < 1000


async def test_a_listener_that_is_cancelled_leaves(hub: Subscriptions, client_of_redis: redis.Redis, channel: str):
    """A waiter whose task is cancelled is gone; the others go on."""

    async def wait_for_ever() -> None:
        with hub.listen(channel + ":2") as listener:
            await listener.next(None)

    with hub.listen(channel) as other:
        await other.confirmed(WAIT_S)
        waiting = asyncio.create_task(wait_for_ever())
        await auntil(lambda: _heard_by(client_of_redis, channel + ":2", 1), WAIT_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await auntil(lambda: _heard_by(client_of_redis, channel + ":2", 0), WAIT_S)
        client_of_redis.publish(channel, "hello")
        assert await other.next(WAIT_S) == b"hello"


async def _heard_by(client: redis.Redis, channel: str, listeners: int) -> bool:
    return client.publish(channel, "hello") == listeners


async def _next_payload(listener) -> bytes:
    while (payload := await listener.next(WAIT_S)) is None:
        pass
    return payload
