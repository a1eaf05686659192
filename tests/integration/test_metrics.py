"""The numbers are the provider's ledger, wherever they are read, and hold no prompt."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

import pytest

from kagura_tasks.app import create_app
from kagura_tasks.client import LLMClient
from kagura_tasks.connections import async_client, sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.limits.store import Ask, Budget, Ended, Entered, Limit, LimitStore
from kagura_tasks.limits.terms import LimitTerms
from kagura_tasks.metrics.figures import all_of, by
from kagura_tasks.metrics.snapshot import read_snapshot
from kagura_tasks.settings import Settings
from tests.integration.test_cli import document, kagura
from tests.support.flower import FlowerProcess, metric, row_of
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Fleet, Worker, WorkerOptions

MODEL = "openai/gpt-4o-mini"

#: What LiteLLM's price map says of it (picodollars a token): prompt, cached prompt, answer.
PRICES = (150_000, 75_000, 600_000)

METRICS = "kagura:metrics:*"

#: Two kinds of answers: prompt's tokens, cached ones among them, answer's tokens.
PLAIN, CACHED = (11, 0, 3), (1100, 1024, 7)


@dataclass(frozen=True)
class Scene:
    """A fleet that is watched, on a Redis of its own."""

    server: EmbeddedRedis
    stub: StubServer
    worker: Worker
    flower: FlowerProcess

    def settings(self, **values: Any) -> Settings:
        return Settings(redis_url=self.server.url, default_model=MODEL, **values)


@pytest.fixture(scope="module")
def scene(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Four children of a pool, each of which ends after ten tasks."""
    folder = tmp_path_factory.mktemp("metrics")
    with EmbeddedRedis() as server:
        fleet = Fleet(server.url, stub_server.base_url, folder)
        flower = FlowerProcess(server.url, folder / "flower.log")
        try:
            options = WorkerOptions("prefork", concurrency=4, arguments=("-E", "--max-tasks-per-child=10"))
            (worker,) = fleet(1, options)
            yield Scene(server, stub_server, worker, flower.ready())
        finally:
            fleet.stop()
            flower.stop()


@pytest.fixture(autouse=True)
def _no_script(scene: Scene) -> None:
    scene.stub.reset()


def usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    """As the provider tells it."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}}


@contextmanager
def recorded_events(settings: Settings) -> Iterator[list[str]]:
    """All events of the fleet while the block runs."""
    app, seen = create_app(settings), list[str]()
    connection = app.connection_for_read()
    receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append(json.dumps(event))})
    thread = threading.Thread(target=partial(receiver.capture, wakeup=False))
    thread.start()
    try:
        yield seen
    finally:
        receiver.should_stop = True
        thread.join()
        connection.release()


@pytest.mark.timeout(300)
def test_a_thousand_calls_equal_the_ledger(scene: Scene):
    """Under children that come and go: on the page, in /metrics, in `stats`. A canary in each prompt shows nowhere."""
    canary = f"canary-{uuid4().hex}"
    _ = sync_client(scene.server.url, 2.0).eval(
        "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end", 0, METRICS
    )
    scene.stub.script(fields=usage(*PLAIN))
    scene.stub.script(when="long", fields=usage(*CACHED))
    with recorded_events(scene.settings()) as events:
        clients = [LLMClient(scene.settings(tenant=tenant)) for tenant in ("acme", "globex")]
        asked = [
            client.submit(f"{canary} {'long' if number % 4 == 0 else 'short'} {number}")
            for client in clients
            for number in range(400)
        ]
        mapped = [client.map([f"{canary} item {number}" for number in range(100)]) for client in clients]
        for answer in asked:
            assert answer.get(timeout_s=60).text
        for answers in mapped:
            assert all(one.error is None for one in answers)
        for number in range(250):
            assert clients[0].complete(f"{canary} short {number | 1}").cached
        until(lambda: sum("task-succeeded" in event for event in events) > 500, 30, "events of most tasks")
    assert scene.stub.count() == 1000

    long, short = 200, 800
    prompt, cached, completion = (long * one + short * other for one, other in zip(CACHED, PLAIN, strict=True))
    picousd = (prompt - cached) * PRICES[0] + cached * PRICES[1] + completion * PRICES[2]
    expected = {
        "calls": 1000,
        "tokens": prompt + completion,
        "cost_usd": picousd / 1e12,
        "cache_hit_rate": 250 / 1250,
        "provider_cache_hit_rate": cached / prompt,
    }

    page, metrics = scene.flower.get("/llm"), scene.flower.get("/metrics")
    shown = row_of(page, "model", "All")
    assert {name: shown[name] for name in expected} == expected
    assert row_of(page, "task", "kagura.map_item")["calls"] == 200
    assert row_of(page, "tenant", "acme")["calls"] == row_of(page, "tenant", "globex")["calls"] == 500

    told = document(kagura("stats", "--json", redis_url=scene.server.url))["total"]
    assert {**told, "tokens": told["prompt_tokens"] + told["completion_tokens"]}.items() >= expected.items()
    assert told["done"] == 1000

    assert metric(metrics, "kagura_calls_total") == metric(metrics, "kagura_call_duration_seconds_count") == 1000
    assert metric(metrics, "kagura_calls_total", tenant="acme", task="kagura.complete") == 400
    assert metric(metrics, "kagura_prompt_tokens_total") == prompt
    assert metric(metrics, "kagura_completion_tokens_total") == completion
    assert metric(metrics, "kagura_cached_prompt_tokens_total") == cached
    assert metric(metrics, "kagura_cost_usd_total") == pytest.approx(picousd / 1e12, rel=1e-12)
    assert metric(metrics, "kagura_cache_lookups_total", result="hits") == 250
    assert metric(metrics, "kagura_cache_lookups_total", result="misses") == 1000
    assert metric(metrics, "kagura_queue_wait_seconds_count") == 1000

    others = [scene.flower.get(path) for path in ("/", "/tasks", "/api/tasks", "/broker")]
    for text in (page, metrics, json.dumps(told), *others, *events, scene.worker.log, scene.flower.log):
        assert canary not in text


def test_calls_that_fail_are_calls(scene: Scene):
    """Each try is counted, by its error's name; the task once, by how it ended."""
    tenant = f"test-{uuid4().hex[:8]}"
    client = LLMClient(scene.settings(tenant=tenant))
    scene.stub.script(status=503, times=1)
    assert client.complete("One failure, then an answer.").attempts == 2
    scene.stub.script(status=401)
    with pytest.raises(KaguraTasksError):
        client.complete("Refused.")
    figures = until(lambda: (found := of_tenant(scene, tenant)).tasks == 2 and found, what="both tasks")
    assert figures.counts["calls"] == 3
    assert figures.failed_calls == 2
    assert len(figures.errors) == 2
    assert (figures.counts["done"], figures.counts["failed"]) == (1, 1)


def test_a_task_that_waits_for_its_next_try_is_counted_once(scene: Scene):
    """What it did before goes with its first delivery, also of a map's item, which keeps no such state."""
    tenant = f"test-{uuid4().hex[:8]}"
    client = LLMClient(scene.settings(tenant=tenant))
    scene.stub.script(status=429, headers={"Retry-After": "2"}, times=1)
    assert client.complete("Later.").attempts == 2
    scene.stub.script(status=429, headers={"Retry-After": "2"}, times=1)
    assert [one.completion and one.completion.attempts for one in client.map(["Later, too."])] == [2]
    counts = until(lambda: (found := of_tenant(scene, tenant).counts)["done"] == 2 and found, what="both tasks")
    assert (counts["calls"], counts["retried"]) == (4, 2)


def test_a_cancelled_stream_counts_what_it_used(scene: Scene):
    """The call was made, and its tokens so far are counted here."""
    tenant = f"test-{uuid4().hex[:8]}"
    client = LLMClient(scene.settings(tenant=tenant))
    scene.stub.script(text="one two three four five six", chunks=6, stall_after=3)
    with client.stream("Count.") as stream:
        next(iter(stream))
        until(lambda: read_snapshot(scene.settings()).live_streams == 1, what="a live stream")
        assert "1 live streams" in scene.flower.get("/llm")
        client.cancel(stream.id)
    counts = until(lambda: (found := of_tenant(scene, tenant).counts)["cancelled"] and found, what="its end")
    assert (counts["calls"], counts["done"]) == (1, 0)
    assert counts["completion_tokens"] > 0
    until(lambda: read_snapshot(scene.settings()).live_streams == 0, what="no live stream")


def test_what_is_streamed_says_how_soon_it_began(scene: Scene):
    """The time to the first chunk is an observation a streamed call."""
    tenant = f"test-{uuid4().hex[:8]}"
    scene.stub.script(delay_s=0.3, chunk_delay_s=0.05)
    assert list(LLMClient(scene.settings(tenant=tenant)).stream("Go."))
    figures = until(lambda: (found := of_tenant(scene, tenant)).tasks and found, what="its end")
    assert sum(figures.buckets("first_chunk_s")) == 1
    assert 0.3 <= figures.sum_s("first_chunk_s") < figures.sum_s("call_s")


def test_the_page_is_not_for_everybody(scene: Scene):
    """Where Flower has a login, the LLM page and the numbers want it."""
    for path in ("/llm", "/metrics"):
        with pytest.raises(HTTPError, match="401"):
            scene.flower.get(path, login=None)


def of_tenant(scene: Scene, tenant: str) -> Any:
    """The figures of this tenant, since they began to be counted."""
    total = read_snapshot(scene.settings()).total
    return by(total, "tenant").get(tenant) or all_of({})


def test_top_follows_the_fleet(scene: Scene):
    """In a pipe, one look after the other."""
    tenant = f"test-{uuid4().hex[:8]}"
    LLMClient(scene.settings(tenant=tenant)).complete("Hello.")
    shown = kagura("top", "--count", "2", "--interval", "0.2", redis_url=scene.server.url).stdout
    assert shown.count("calls/s") == shown.count(tenant) == 2


async def test_limits_and_cooldowns_are_on_the_page(scene: Scene):
    """What of them is used, and for how long a provider wants no more calls."""
    store = LimitStore(async_client(scene.server.url, 2.0))
    limits, budgets = [Limit("openai/watched-*", LimitTerms(requests_per_min=60))], [Budget("acme", 20.0, 0.5)]
    ask = Ask("r", "t", "acme", weight=1, priority=3, limits=limits, budgets=budgets, lease_s=30)
    assert isinstance(await store.reserve(ask, stay_s=0, may_leave=True), Entered)
    await store.settle(ask, Ended("limited", usd=0.25, pause_s=20))
    (_, shown) = scene.flower.get("/llm").split('id="kg-limits"')
    assert "openai/watched-*" in shown
    assert "1 of 60 calls in 60 s" in shown
    assert "$0.2500 of $20.00 today" in shown
    assert re.search(r"the provider wants none for (1\d|20)(\.\d)? s", shown)
