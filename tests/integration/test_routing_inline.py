"""Routing in this process: the same promises, without Redis and workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kagura_tasks import inline
from kagura_tasks.connections import close_async_clients
from kagura_tasks.errors import NoAgentFound
from kagura_tasks.settings import Settings
from tests.support.llm import StubServer
from tests.support.routing_scene import RoutingScene

pytestmark = pytest.mark.litellm


@pytest.fixture
def scene(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoutingScene]:
    """Agents that this process answers for."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("OPENAI_API_BASE", stub.base_url)
    yield RoutingScene(Settings(execution="inline"), stub)
    inline._CALLS.run(close_async_clients())


def test_a_conversation_is_routed_in_this_process(scene: RoutingScene):
    """Decided, answered and remembered, by `route` of client and router alike."""
    router = scene.memory_router()
    scene.client.route("What is the weather in Tokyo?", router, conversation_id=scene.word).get(60)
    result = router.route("And in Kyoto?", conversation_id=scene.word)
    assert result.get(60).decision is not None
    assert [one.agent for one in scene.prompts()] == ["weather", "weather"]
    assert "Tokyo" in scene.prompts()[-1].query
    assert len(scene.memory.turns(scene.word)) == 4


def test_nobody_fits_in_this_process(scene: RoutingScene):
    """The same error."""
    with pytest.raises(NoAgentFound):
        scene.client.route("bread", scene.router()).get(60)


def test_vectors_are_made_in_this_process(scene: RoutingScene):
    """By LiteLLM, and the samples' once."""
    router = scene.router("semantic", embedding="openai/embed-x", confidence_threshold=0.5)
    router.register(scene.agent("sun"), samples=[f"how warm will it be {scene.word}"])
    for _ in range(2):
        assert router.decide(f"how warm will monday be {scene.word}").agent == "sun"
    inputs = [one["body"]["input"] for one in scene.stub.ledger()["requests"]]
    assert [len(one) for one in inputs] == [10, 1]
