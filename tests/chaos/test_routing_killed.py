"""Workers that die while they answer a routed query."""

from __future__ import annotations

import pytest

from kagura_tasks import Decision
from tests.support.chaos import Scene
from tests.support.routing_scene import RoutingScene
from tests.support.wait import until


@pytest.mark.parametrize("pool", ["threads", "prefork", "asyncio"])
def test_a_query_keeps_its_agent_when_its_worker_dies(scene: Scene, pool: str):
    """kill -9 while the agent's model answers, and the conversation moves on: the first decision stands.

    Question and answer are in the conversation once.
    """
    talk = RoutingScene(scene.settings, scene.stub)
    router = talk.memory_router()
    talk.memory.append("c", "user", "What is the weather in Tokyo?")
    scene.stub.script(when=f"[weather {talk.word}]", text="Sunny.", held=True)
    (first,) = scene.workers(1, pool, queues="llm,routing")
    result = talk.client.route("And in Kyoto?", router, conversation_id="c")
    until(talk.prompts, what="the agent's call")
    first.kill9()
    talk.memory.append("c", "user", "I want a refund.")
    scene.stub.release()
    scene.workers(1, pool, queues="llm,routing")
    completion = result.get(timeout_s=60)
    assert completion.text == "Sunny."
    record = Decision.model_validate(completion.decision)
    assert router.replay(record) == record
    assert {(one.agent, one.query) for one in talk.prompts()} == {("weather", record.resolved_query)}
    said = ["What is the weather in Tokyo?", "I want a refund.", "And in Kyoto?", "Sunny."]
    assert [turn.content for turn in talk.memory.turns("c")] == said
