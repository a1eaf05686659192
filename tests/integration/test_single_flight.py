"""Equal requests at the same time share one provider call."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.errors import RequestRefused
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Fleet


def followers(client: redis.Redis, settings: Settings) -> int:
    """How many share the one flight of this tenant."""
    flights = client.keys(f"kagura:flight:{settings.tenant}:*")
    return sum(int(client.hget(flight, "followers") or 0) for flight in flights)


def test_equal_calls_over_four_processes_are_one_provider_request(
    settings: Settings, fleet: Fleet, stub: StubServer, prompt: str, client_of_redis: redis.Redis
):
    """50 equal calls at once over 4 worker processes: 1 provider request, 50 equal answers, 49 of them for nothing."""
    stub.script(text="One answer.", held=True)
    client = LLMClient(settings)
    results = [client.submit(prompt) for _ in range(50)]
    until(lambda: followers(client_of_redis, settings) == 49, what="49 followers")
    stub.release()
    answers = [result.get(timeout_s=30) for result in results]
    assert {answer.text for answer in answers} == {"One answer."}
    assert stub.count() == 1
    assert sum(not answer.cached for answer in answers) == 1
    stats = asyncio.run(client.cache.stats(settings.tenant))
    assert (stats["misses"], stats["shared"], stats["hits"]) == (50, 49, 0)


def test_a_leaders_error_reaches_each_follower_and_is_not_cached(
    settings: Settings, fleet: Fleet, stub: StubServer, prompt: str, client_of_redis: redis.Redis
):
    """Whoever shares the call shares its error; whoever asks later makes a call of his own."""
    stub.script(status=400, body='{"error": {"message": "no", "code": "bad_thing"}}', held=True, times=1)
    client = LLMClient(settings)
    results = [client.submit(prompt) for _ in range(10)]
    until(lambda: followers(client_of_redis, settings) == 9, what="nine followers")
    stub.release()

    def error_of(result) -> str:
        with pytest.raises(RequestRefused) as caught:
            result.get(timeout_s=30)
        return str(caught.value)

    with ThreadPoolExecutor(10) as threads:
        assert len(set(threads.map(error_of, results))) == 1
    assert stub.count() == 1
    assert client.complete(prompt).text
    assert stub.count() == 2


def test_followers_share_an_incomplete_answer_too(
    settings: Settings, fleet: Fleet, stub: StubServer, prompt: str, client_of_redis: redis.Redis
):
    """An answer that is not worth remembering still reaches those who are waiting for it."""
    stub.script(text="Half an", finish_reason="length", held=True)
    client = LLMClient(settings)
    results = [client.submit(prompt) for _ in range(5)]
    until(lambda: followers(client_of_redis, settings) == 4, what="four followers")
    stub.release()
    answers = [result.get(timeout_s=30) for result in results]
    assert {(answer.text, answer.finish_reason) for answer in answers} == {("Half an", "length")}
    assert stub.count() == 1
    client.complete(prompt)
    assert stub.count() == 2


def test_an_answer_without_a_reason_for_its_end_is_not_remembered(
    settings: Settings, fleet: Fleet, stub: StubServer, prompt: str
):
    """LiteLLM says "stop" where the provider said nothing, or a word it does not know: neither is complete."""
    client = LLMClient(settings)
    for finish_reason, seen in ((None, ""), ("eaten_by_bear", "eaten_by_bear")):
        stub.script(finish_reason=finish_reason)
        asked = f"{prompt} {seen}"
        assert [client.complete(asked).finish_reason for _ in range(2)] == [seen, seen]
    assert stub.count() == 4


def test_a_corrupt_outcome_of_another_kind_is_answered_anew(
    settings: Settings, fleet: Fleet, stub: StubServer, prompt: str, client_of_redis: redis.Redis
):
    """An entry that is JSON, but not of ours, is replaced by a real answer."""
    client = LLMClient(settings)
    client.complete(prompt)
    (key,) = client_of_redis.keys(f"kagura:cache:{settings.tenant}:entry:*")
    client_of_redis.set(key, '{"response": {"kind": "else"}, "kind": "completion"}', ex=60)
    assert not client.complete(prompt).cached
    assert client.complete(prompt).cached
    assert stub.count() == 2
