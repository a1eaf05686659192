"""A Redis that is away, hangs, or comes back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from kagura_tasks import LLMClient, Settings
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import RedisUnreachable
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Fleet, WorkerOptions


@pytest.fixture
def hanging() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"redis://:hunter2@127.0.0.1:{listening.getsockname()[1]}/0"


@pytest.mark.parametrize("call", ["submit", "await", "get", "status", "cancel"])
@pytest.mark.parametrize("kind", ["refused", "hanging"])
def test_each_call_ends_within_five_seconds_and_names_the_address(kind: str, call: str, hanging: str):
    """One typed error with the address and without its password; nobody waits for ever."""
    client = LLMClient(redis_url=hanging if kind == "hanging" else "redis://:hunter2@127.0.0.1:1/0")
    calls = {
        "submit": lambda: client.complete("hi"),
        "await": lambda: asyncio.run(client.acomplete("hi")),
        "get": lambda: client.result("some-id").get(timeout_s=1),
        "status": lambda: client.result("some-id").status(),
        "cancel": lambda: client.cancel("some-id"),
    }
    started = time.monotonic()
    with pytest.raises(RedisUnreachable, match=r"127\.0\.0\.1") as caught:
        calls[call]()
    assert time.monotonic() - started < 5
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_waiter_goes_on_when_redis_comes_back(start_workers: Fleet, stub: StubServer, tmp_path):
    """Redis (append-only) restarts while a call runs: worker and waiter reconnect, and the answer arrives."""
    with EmbeddedRedis(appendonly=True) as server:
        fleet = Fleet(server.url, stub.base_url, tmp_path)
        try:
            fleet(1, WorkerOptions(concurrency=2))
            client = LLMClient(Settings(redis_url=server.url))
            stub.script(text="After all.", delay_s=3.0)
            result = client.submit(f"Say something about {uuid4().hex}.")
            until(lambda: stub.count() == 1, what="the running call")
            with ThreadPoolExecutor(1) as waiting:
                answer = waiting.submit(result.get, 40)
                server.restart()
                assert answer.result().text == "After all."
        finally:
            fleet.stop()


def test_with_a_cache_that_is_away_calls_go_on(settings: Settings, start_workers: Fleet, stub: StubServer):
    """The cache's own Redis is down: each call is made, none fails, nothing is shared."""
    away = "redis://127.0.0.1:1/0"
    start_workers(1, WorkerOptions(environment={"KAGURA_TASKS_CACHE_URL": away}), api_base=stub.base_url)
    client = LLMClient(settings.override(cache_url=away))
    prompt = f"Say something about {uuid4().hex}."
    assert [client.complete(prompt).cached for _ in range(2)] == [False, False]
    assert stub.count() == 2
