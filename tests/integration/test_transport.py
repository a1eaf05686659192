"""The workers' transport: many messages in one step, none lost, the urgent ones first."""

from __future__ import annotations

import json

import pytest
import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.dead_letters import DeadLetters
from tests.support.llm import LlmServer, StubServer
from tests.support.wait import until
from tests.support.workers import WorkerOptions


@pytest.mark.parametrize("pool", ["threads", "prefork", "asyncio"])
def test_what_waits_is_answered_once_each(settings: Settings, start_workers, stub: StubServer, prompt: str, pool: str):
    """Hundreds of waiting messages, on both queues and all priorities: each answered, each called for once."""
    client = LLMClient(settings)
    steps = ["interactive", "normal", "low", "batch"]
    results = [client.submit(f"{prompt} {n}", priority=steps[n % 4], use_cache=False) for n in range(200)]
    start_workers(2, WorkerOptions(pool=pool, concurrency=16), api_base=stub.base_url)
    assert all(result.get(timeout_s=60).text for result in results)
    assert stub.count() == 200


def test_the_urgent_go_first(settings: Settings, start_workers, stub: StubServer, prompt: str):
    """Of what waits, the interactive is started before the low, whichever came first."""
    client = LLMClient(settings)
    low = [client.submit(f"{prompt} low {n}", priority="low") for n in range(8)]
    urgent = [client.submit(f"{prompt} urgent {n}", priority="interactive") for n in range(8)]
    start_workers(1, WorkerOptions(concurrency=4), api_base=stub.base_url)
    for result in [*low, *urgent]:
        result.get(timeout_s=30)
    order = [request["body"]["messages"][-1]["content"] for request in stub.ledger()["requests"]]
    first_low = next(index for index, content in enumerate(order) if " low " in content)
    assert sum(" urgent " in content for content in order[:first_low]) >= 4
    assert " urgent " in order[0]


def test_a_worker_takes_no_more_than_it_has_room_for(
    settings: Settings, start_workers, stub: StubServer, prompt: str, client_of_redis: redis.Redis
):
    """What a busy worker cannot start stays in the queue, for others."""
    stub.script(held=True)
    start_workers(1, WorkerOptions(concurrency=4), api_base=stub.base_url)
    client = LLMClient(settings)
    results = [client.submit(f"{prompt} {n}", use_cache=False) for n in range(20)]
    until(lambda: stub.count() == 4, what="four running calls")
    assert client_of_redis.zcard("unacked_index") <= 4 + 1
    stub.release()
    for result in results:
        result.get(timeout_s=30)
    assert stub.peak() == 4


def test_what_was_fetched_is_recorded_and_then_acknowledged(
    settings: Settings, start_workers, stub: StubServer, prompt: str, client_of_redis: redis.Redis
):
    """While it runs, a message can be handed out again, in kombu's own form; after the answer nothing is left of it."""
    client = LLMClient(settings)
    stub.script(held=True)
    results = [client.submit(f"{prompt} {n}") for n in range(6)]
    start_workers(1, WorkerOptions(concurrency=8), api_base=stub.base_url)
    until(lambda: stub.count() == 6, what="all calls running")
    records = client_of_redis.hgetall("unacked")
    assert len(records) == client_of_redis.zcard("unacked_index") == 6
    for record in records.values():
        message, exchange, routing_key = json.loads(record)
        assert (message["headers"]["task"], exchange, routing_key) == ("kagura.complete", "", "llm")
    stub.release()
    for result in results:
        result.get(timeout_s=30)
    until(lambda: not client_of_redis.exists("unacked", "unacked_index"), what="all acknowledged")


def test_a_shutdown_gives_back_what_was_not_started(
    settings: Settings, start_workers, llm: LlmServer, prompt: str, client_of_redis: redis.Redis
):
    """SIGTERM: running calls end, fetched ones go back to the queue, and another worker answers them."""
    client = LLMClient(settings)
    llm.delay(1.0)
    (first,) = start_workers(1, WorkerOptions(concurrency=2, arguments=("--prefetch-multiplier=4",)))
    results = [client.submit(f"{prompt} {n}") for n in range(8)]
    until(lambda: client_of_redis.zcard("unacked_index") >= 3, what="fetched messages")
    first.terminate()
    start_workers(1)
    assert all(result.get(timeout_s=40).text for result in results)
    assert llm.count(prompt) == 8


def test_garbage_on_a_queue_stops_nobody(
    settings: Settings, start_workers, llm: LlmServer, prompt: str, client_of_redis
):
    """What is no message becomes a dead letter, with an error in the log; the messages around it are answered."""
    client = LLMClient(settings)
    garbage = [b"no JSON", b"[1, 2]", b'{"properties": 7}', b"\x80\x04pickle"]
    results = []
    for number, item in enumerate(garbage):
        results.append(client.submit(f"{prompt} {number}"))
        client_of_redis.lpush("llm\x06\x163", item)
    client_of_redis.rpush("llm", b"first of all")
    (worker,) = start_workers(1)
    assert all(result.get(timeout_s=30).text for result in results)
    client_of_redis.lpush("llm", b"and a last one")
    assert client.complete(f"{prompt} at last").text
    dead = DeadLetters(settings)
    assert {dead.message(letter_id) for letter_id in dead.ids()} == {*garbage, b"first of all", b"and a last one"}
    assert {letter.reason for letter in dead.find(dead.ids())} == {"it is no message"}
    assert "dead letters now" in worker.log
