"""Connections that threads borrow: who asks gets its own answer, whatever happens to the connection."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, cast

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.redis_line import packed
from kagura_tasks.redis_loans import Loans
from kagura_tasks.settings import RedisUrl
from tests.support.wait import until

#: How long these wait for an answer, and for a connection (s).
_TIMEOUT_S = 1.0


class Counted:
    """Loans, and how many connections they made."""

    def __init__(self, url: RedisUrl, most: int = 2, wait_s: float = _TIMEOUT_S) -> None:
        self._url = url
        self.made = 0
        self.loans = Loans(self._connection, most, wait_s)

    def _connection(self) -> Any:
        self.made += 1
        pool = cast(Any, sync_client(self._url, _TIMEOUT_S)).connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    def ask(self, *command: Any) -> Any:
        return self.loans.ask(cast(bytes, packed(command)))

    def ask_for(self, word: object) -> Any:
        """It comes back, unless the server holds writers up."""
        return self.ask("EVAL", "return ARGV[1]", 0, str(word))


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """One that may be held up: the session's has other clients."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def operator(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A plain client, to hold the server up and to cut connections."""
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def counted(server: EmbeddedRedis) -> Iterator[Counted]:
    counted = Counted(server.url)
    yield counted
    counted.loans.close()


def test_every_thread_gets_the_answers_to_its_own_commands(counted: Counted):
    """More threads than connections take turns, and none is opened that nobody needs."""
    assert [counted.ask_for(number) for number in range(5)] == [b"%d" % number for number in range(5)]
    assert counted.made == 1

    def ask(thread: int) -> bool:
        words = [f"{thread}-{number}" for number in range(200)]
        return [counted.ask_for(word) for word in words] == [word.encode() for word in words]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert counted.made == 2


def test_an_error_that_the_server_answers_costs_no_connection(counted: Counted):
    """It is raised to the one who asked."""
    with pytest.raises(ResponseError, match="unknown command"):
        counted.ask("NONSENSE")
    assert counted.ask_for("next") == b"next"
    assert counted.made == 1


def test_a_connection_that_was_dropped_while_it_was_idle_is_opened_anew(counted: Counted, operator: Any):
    """Who asks notices nothing."""
    assert counted.ask_for("one") == b"one"
    assert operator.client_kill_filter(skipme=True) >= 1
    assert counted.ask_for("two") == b"two"
    assert counted.made == 1


def test_what_was_lost_with_its_connection_is_sent_once_more(counted: Counted, operator: Any):
    """And not a third time."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(counted.ask, "BLPOP", "nothing", 20)
        for _ in range(2):
            until(lambda: operator.info("clients")["blocked_clients"] == 1)
            assert operator.client_kill_filter(skipme=True) == 1
        with pytest.raises(RedisConnectionError):
            asked.result(10)
    assert counted.ask_for("next") == b"next"


def test_who_waits_too_long_leaves_no_answer_for_the_next_one(counted: Counted):
    """The late answer is nobody's: the connection is closed."""
    with pytest.raises(RedisTimeoutError):
        counted.ask("BLPOP", "nothing", 2)
    assert counted.ask_for("next") == b"next"


def test_who_is_interrupted_leaves_no_answer_for_the_next_one(counted: Counted, operator: Any):
    """Ctrl-C may come while the server is about to answer."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            counted.ask("BLPOP", "nothing", 20)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [counted.ask_for(number) for number in range(3)] == [b"0", b"1", b"2"]
    assert counted.made == 1


def test_who_is_interrupted_before_reading_leaves_no_answer_either(server: EmbeddedRedis):
    """A signal's handler may raise at any point, as Celery's does at a soft time limit."""
    counted = Counted(server.url, most=1)
    connection = counted._connection()
    read, interrupts = connection.read_response, iter([True])

    def interrupted() -> Any:
        if next(interrupts, False):
            raise SoftTimeLimitExceeded
        return read()

    connection.read_response = interrupted
    counted.loans._idle.append(connection)
    with pytest.raises(SoftTimeLimitExceeded):
        counted.ask_for("one")
    assert counted.ask_for("two") == b"two"
    counted.loans.close()


def test_where_all_are_lent_one_is_waited_for(server: EmbeddedRedis, operator: Any):
    """As long as a command may take, and no longer."""
    counted = Counted(server.url, most=1, wait_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        holds = pool.submit(counted.ask, "BLPOP", "nothing", 0)
        until(lambda: operator.info("clients")["blocked_clients"] == 1)
        with pytest.raises(RedisConnectionError, match="in use"):
            counted.ask_for("one")
        operator.rpush("nothing", "something")
        assert holds.result(10) == [b"nothing", b"something"]
    assert counted.ask_for("two") == b"two"
    assert counted.made == 1
    counted.loans.close()


def test_without_a_server_who_asks_learns_it():
    """With the system's own words."""
    with pytest.raises(RedisConnectionError, match="refused"):
        Counted(RedisUrl("redis://127.0.0.1:1/0")).ask_for("one")
