"""Routers that read conversations: resolved queries, one decision a task, and what is remembered."""

from __future__ import annotations

import asyncio
import json

import pytest

from kagura_tasks import (
    ContextAnalyzer,
    ConversationMemory,
    Decision,
    LLMContextAnalyzer,
    MemoryAwareRouter,
)
from kagura_tasks.errors import (
    ConfigurationError,
    NoAgentFound,
    RequestRefused,
    TaskCancelled,
)
from tests.support.routing_scene import TIMEOUT_S, Prompt, Route, RoutingScene
from tests.support.wait import auntil


def test_routing_works_without_a_loop(routing: RoutingScene):
    """The same calls, blocking."""
    router = routing.memory_router()
    result = router.route("What is the weather in Rome?", conversation_id="sync")
    assert result.decision is not None
    assert result.get(TIMEOUT_S).text
    assert router.decide("And in Paris?", "sync").agent == "weather"
    later = routing.client.route("And in Paris?", router, conversation_id="sync")
    assert later.decision is None  # only a worker knows
    later.get(TIMEOUT_S)
    assert later.decision is not None
    assert "Rome" in later.decision.resolved_query


async def test_a_conversation_gets_the_query_and_the_answer_once(routing: RoutingScene, routed: Route):
    """Not the prompt; and the next query is understood with them. Another conversation knows nothing of it."""
    routing.stub.script(when=f"[weather {routing.word}]", text="Sunny.")
    router = routing.memory_router()
    await routed(router, "What is the weather in Tokyo?", conversation_id="one")
    await routed(router, "And in Kyoto?", conversation_id="one")
    turns = await routing.memory.aturns("one")
    said = ["What is the weather in Tokyo?", "Sunny.", "And in Kyoto?", "Sunny."]
    assert [turn.content for turn in turns] == said
    assert routing.prompts()[-1].query == (
        "Earlier in this conversation:\nuser: What is the weather in Tokyo?\nassistant: Sunny.\n\nNow: And in Kyoto?"
    )
    with pytest.raises(NoAgentFound):
        await routed(router, "And in Kyoto?", conversation_id="two")


async def test_another_tenants_conversation_is_not_found(routing: RoutingScene):
    """The same id is another conversation."""
    router = routing.memory_router()
    await routing.memory.aappend("one", "user", "What is the weather in Tokyo?")
    with pytest.raises(NoAgentFound):
        await (await routing.client.aroute("And in Kyoto?", router, conversation_id="one", tenant="another"))


async def test_the_analysis_and_the_first_decision_are_asked_for_at_the_same_time(routing: RoutingScene, routed: Route):
    """Their calls overlap at the provider. A query that stands alone needs no further decision."""
    alone = {"needs_context": False, "query": ""}
    routing.stub.script(when="You read the last turns", text=json.dumps(alone), delay_s=0.5)
    routing.stub.script(
        when="You choose which agent", text='{"agent": "weather", "confidence": 1, "reason": ""}', delay_s=0.5
    )
    router = routing.memory_router("llm", model="openai/gpt-x", analyzer=LLMContextAnalyzer("openai/gpt-x"))
    await routing.memory.aappend("c", "user", "Hello")
    await routed(router, f"How warm is Rome? {routing.word}", conversation_id="c")
    asked = [one for one in routing.stub.ledger()["requests"] if "You " in str(one["body"]["messages"][0]["content"])]
    assert len(asked) == 2
    first, second = sorted(asked, key=lambda one: one["started_at"])
    assert second["started_at"] < first["ended_at"]
    (prompt,) = routing.prompts()
    assert prompt == Prompt("weather", f"How warm is Rome? {routing.word}", prompt.started_at)
    assert prompt.started_at > max(first["ended_at"], second["ended_at"])


async def test_a_model_rewrites_a_follow_up(routing: RoutingScene, routed: Route):
    """It is decided again on what it wrote, and the agent gets that."""
    resolved = {"needs_context": True, "query": f"How is the weather in Kyoto? {routing.word}"}
    routing.stub.script(when="You read the last turns", text=json.dumps(resolved))
    router = routing.memory_router(analyzer=LLMContextAnalyzer("openai/gpt-x"))
    await routing.memory.aappend("c", "user", f"Tokyo? {routing.word}")
    completion = await routed(router, "Kyoto?", conversation_id="c")
    assert [one.query for one in routing.prompts()] == [resolved["query"]]
    record = Decision.model_validate(completion.decision)
    assert record.context is not None
    assert record.context.needs_context
    assert router.replay(record) == record


def test_a_memory_that_no_worker_sees_is_refused(routing: RoutingScene):
    """It would answer as if nothing had been said."""
    elsewhere = ConversationMemory(routing.settings, redis_url="redis://localhost:1/0")
    router = routing.filled(MemoryAwareRouter(client=routing.client, memory=elsewhere))
    with pytest.raises(ConfigurationError, match="where the client's results are"):
        routing.client.route("weather", router, conversation_id="c")


async def test_an_analyzer_of_ones_own_stays_in_the_application(routing: RoutingScene):
    """It is used there; a worker does not know it."""

    class Never(ContextAnalyzer):
        def reasons(self, query: str) -> tuple[str, ...]:
            return ()

    router = routing.memory_router(analyzer=Never())
    await routing.memory.aappend("c", "user", "What is the weather in Tokyo?")
    decision = await router.adecide("And in Kyoto?", "c")
    assert decision.agent is None
    with pytest.raises(ConfigurationError, match="analyzer of your own"):
        routing.client.route("And in Kyoto?", router)


async def test_a_failing_agent_fails_the_routed_task(routing: RoutingScene, routed: Route):
    """With its own error; nothing is appended to the conversation, and no other agent is tried."""
    routing.stub.script(when=f"[weather {routing.word}]", status=400)
    with pytest.raises(RequestRefused):
        await routed(routing.memory_router(), "weather in Rome", conversation_id="c")
    assert len(routing.prompts()) == 1
    assert await routing.memory.aturns("c") == []


async def test_a_transient_failure_is_tried_again_under_one_decision(routing: RoutingScene, routed: Route):
    """Also where the wait is so long that the task goes back to its queue: what was said meanwhile changes nothing."""
    query = f"weather in {routing.word}"
    routing.stub.script(when=query, status=503, headers={"Retry-After": "2"}, times=1)
    completion = await routed(routing.memory_router(), query, conversation_id="c")
    assert completion.attempts == 2
    assert len(routing.prompts()) == 2
    assert len(await routing.memory.aturns("c")) == 2


async def test_a_cancelled_query_runs_no_further(routing: RoutingScene):
    """The provider's connection is closed, and nothing is appended."""
    routing.stub.script(when=routing.word, held=True)
    result = await routing.client.aroute(f"weather {routing.word}", routing.memory_router(), conversation_id="c")
    await auntil(lambda: asyncio.to_thread(routing.prompts), what="the agent's call")
    await result.acancel()
    with pytest.raises(TaskCancelled):
        await result.aget(TIMEOUT_S)
    assert await routing.memory.aturns("c") == []
