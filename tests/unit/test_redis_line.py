"""One connection for all commands of an event loop: who asks gets its own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kagura_tasks.connections import REDIS_AWAY, async_client, sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.redis_line import Line, packed
from kagura_tasks.settings import RedisUrl
from tests.support.wait import auntil

#: How long these lines wait for an answer (s).
_TIMEOUT_S = 0.5


class Watched:
    """A connection, and what was written to it."""

    def __init__(self, url: RedisUrl) -> None:
        connection: Any = cast(Any, async_client(url, _TIMEOUT_S)).connection_pool.make_connection()
        self.connect, self.disconnect = connection.connect, connection.disconnect
        self.next_answer = connection.next_answer
        self.writes: list[bytes] = []
        self._write = connection.write

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._write(data)


class Watching:
    """A line, and the connections that it made."""

    def __init__(self, url: RedisUrl) -> None:
        self.connections: list[Watched] = []
        self._url = url
        self.line = Line(self._connect, _TIMEOUT_S)

    def _connect(self) -> Any:
        self.connections.append(Watched(self._url))
        return self.connections[-1]

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        return self.line.ask(cast(bytes, packed(command)))

    def ask_for(self, word: object) -> asyncio.Future[Any]:
        """It comes back, unless the server holds writers up."""
        return self.ask("EVAL", "return ARGV[1]", 0, str(word))

    async def wrote(self, connections: int, writes: int) -> None:
        """Return when so many connections were made, and that much was written to the last."""

        async def has_written() -> bool:
            return len(self.connections) == connections and len(self.connections[-1].writes) == writes

        await auntil(has_written, what=f"{writes} writes to connection {connections}")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """One that may be held up: the session's has other clients."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def operator(server: EmbeddedRedis) -> Iterator[Any]:
    """Somebody else's client; what it holds up goes on after the test."""
    client: Any = sync_client(server.url, 5.0)
    yield client
    client.client_unpause()


@pytest_asyncio.fixture
async def watching(server: EmbeddedRedis) -> AsyncIterator[Watching]:
    """A line, which is open."""
    watching = Watching(server.url)
    await watching.ask("PING")
    yield watching
    await watching.line.close()


async def test_everybody_gets_the_answer_to_its_own_command(watching: Watching):
    """Hundreds at once, in whatever order they are waited for."""
    sent = [watching.ask_for(number) for number in range(500)]
    assert [int(await answer) for answer in reversed(sent)] == [*reversed(range(500))]


async def test_what_is_asked_for_in_one_turn_of_the_loop_leaves_together(watching: Watching):
    """One write, over one connection."""
    await asyncio.gather(*(watching.ask_for(number) for number in range(300)))
    await watching.wrote(connections=1, writes=2)


async def test_an_error_is_for_the_one_who_asked(watching: Watching):
    """The others' answers are theirs."""
    first, wrong, last = watching.ask_for("a"), watching.ask("NO-SUCH"), watching.ask_for("b")
    assert (await first, await last) == (b"a", b"b")
    with pytest.raises(ResponseError):
        await wrong


async def test_who_is_cancelled_disturbs_nobody(watching: Watching):
    """Before its command is sent, or after: its answer is dropped, and the connection stays."""
    before, after, last = (watching.ask_for(word) for word in ("a", "b", "c"))
    before.cancel()
    await watching.wrote(connections=1, writes=2)
    after.cancel()
    assert await last == b"c"
    assert await watching.ask_for("d") == b"d"
    assert len(watching.connections) == 1


async def test_a_connection_that_was_lost_while_it_was_idle_costs_nobody_anything(watching: Watching, operator: Any):
    """Another is opened."""
    operator.client_kill_filter(skipme=True)
    assert await watching.ask_for("idle") == b"idle"
    assert len(watching.connections) == 2


async def test_what_was_lost_with_its_connection_is_sent_once_more(watching: Watching, operator: Any):
    """All of it, in its order."""
    operator.client_pause(10_000, all=False)
    waiting = [watching.ask_for(number) for number in range(50)]
    await watching.wrote(connections=1, writes=2)
    operator.client_kill_filter(skipme=True)
    operator.client_unpause()
    assert [int(await answer) for answer in waiting] == [*range(50)]


async def test_nothing_is_sent_a_third_time(watching: Watching, operator: Any):
    """It may be what the connection dies of. Who asks later is served."""
    operator.client_pause(10_000, all=False)
    waiting = watching.ask_for("a")
    for connections, writes in ((1, 2), (2, 1)):
        await watching.wrote(connections, writes)
        operator.client_kill_filter(skipme=True)
    with pytest.raises(RedisConnectionError):
        await waiting
    operator.client_unpause()
    assert await watching.ask_for("b") == b"b"


async def test_a_server_that_is_busy_answers_whom_it_can(watching: Watching, operator: Any):
    """Who asked too early learns it when its time is over; who asked later gets its answer over the same connection."""
    operator.client_pause(10_000, all=False)
    early = watching.ask_for("early")
    await asyncio.sleep(_TIMEOUT_S / 2)
    late = watching.ask_for("late")
    with pytest.raises(RedisTimeoutError):
        await early
    operator.client_unpause()
    assert await late == b"late"
    assert len(watching.connections) == 1


async def test_closing_leaves_nobody_waiting(watching: Watching, operator: Any):
    """Whoever waits is cancelled."""
    operator.client_pause(10_000, all=False)
    waiting = watching.ask_for("a")
    await watching.wrote(connections=1, writes=2)
    await watching.line.close()
    assert waiting.cancelled()


async def test_who_is_answered_leaves_no_task(watching: Watching):
    """Python would tell of it where a loop is closed: an application may close its loops in its own way."""
    before = asyncio.all_tasks()
    await asyncio.gather(*(watching.ask_for(number) for number in range(3)))

    async def is_alone() -> bool:
        return asyncio.all_tasks() <= before

    await auntil(is_alone, what="no further task")
    assert len(watching.connections) == 1


async def test_who_ends_all_tasks_leaves_nobody_waiting(watching: Watching, operator: Any):
    """The one who reads the answers is a task as well."""
    operator.client_pause(10_000, all=False)
    waiting = watching.ask_for("a")
    await watching.wrote(connections=1, writes=2)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    operator.client_unpause()
    assert await watching.ask_for("b") == b"b"


async def test_without_a_server_everybody_learns_it():
    """At once; and when it is back, all goes on."""
    with EmbeddedRedis() as server:
        watching = Watching(server.url)
        await watching.ask("PING")
        server.kill()
        for _ in range(2):
            lost = await asyncio.gather(*(watching.ask("PING") for _ in range(20)), return_exceptions=True)
            assert all(isinstance(error, RedisConnectionError) for error in lost)
        await asyncio.to_thread(server.restart)
        assert await watching.ask("PING") == b"PONG"
        await watching.line.close()


async def test_a_server_that_hangs_is_given_up():
    """Everybody learns it in time, and there is another connection for the next."""
    with EmbeddedRedis() as server:
        watching = Watching(server.url)
        await watching.ask("PING")
        server.pause()
        try:
            for _ in range(3):
                with pytest.raises(REDIS_AWAY):
                    await watching.ask("PING")
        finally:
            server.resume()
        assert await watching.ask("PING") == b"PONG"
        assert len(watching.connections) > 1
        await watching.line.close()


async def test_who_may_not_connect_is_told_why():
    """Everybody who asks, each time."""
    with EmbeddedRedis() as server:
        cast(Any, sync_client(server.url, 5.0)).config_set("requirepass", "secret")
        watching = Watching(server.url)
        for _ in range(2):
            with pytest.raises(redis.RedisError, match=r"(?i)auth"):
                await watching.ask("PING")
        await watching.line.close()
