"""What a router refuses, and how: typed errors, and nobody runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kagura_tasks import (
    AgentRouter,
    LLMClient,
    MemoryAwareRouter,
)
from kagura_tasks.errors import (
    ConfigurationError,
    InvalidRequest,
    NoAgentFound,
    PromptTooLarge,
    QueryTooLong,
    ResultTimeout,
    TaskCancelled,
)
from kagura_tasks.queues import ROUTING, TaskName
from tests.support.routing_scene import TIMEOUT_S, Route, RoutingScene


async def test_nobody_fits(routing: RoutingScene, routed: Route):
    """Without a fallback that is an error with the best scores, and no agent runs; with one, it answers."""
    with pytest.raises(NoAgentFound, match="no agent scores") as caught:
        await routed(routing.router(), "Please send the parcel and some bread")
    assert caught.value.best == {"refunds": pytest.approx(0.3, abs=0.1)}
    assert routing.stub.count() == 0
    await routed(routing.router(fallback_agent=routing.agent("help")), "bread")
    assert [one.agent for one in routing.prompts()] == ["help"]


async def test_a_query_that_cannot_be_right_is_refused_before_anything_is_sent(routing: RoutingScene, routed: Route):
    """Too long, empty, or no text."""
    router = routing.router(max_query_chars=10)
    for query, error in (("x" * 11, QueryTooLong), ("", InvalidRequest), ("\ud800", InvalidRequest)):
        with pytest.raises(error):
            await routed(router, query)
    assert routing.stub.count() == 0


def test_a_router_that_cannot_work_is_said_where_it_is_made(routing: RoutingScene):
    """Two of one name, nothing to go by, no agent, what is none."""
    router = routing.router()
    with pytest.raises(ConfigurationError, match="weather already"):
        router.register(routing.agent("weather"), intents=["sun"])
    with pytest.raises(ConfigurationError, match="nothing says what other is for"):
        router.register(routing.agent("other"))
    with pytest.raises(ConfigurationError, match="lists of texts"):
        router.register(routing.agent("other"), intents="weather")
    with pytest.raises(ConfigurationError, match="no handler"):
        router.register(lambda query: query, intents=["x"], name="x")  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigurationError, match="fallback is another help"):
        routing.router(fallback_agent=routing.agent("help")).register(routing.agent("help"), intents=["help"])
    for empty in (AgentRouter(client=routing.client), MemoryAwareRouter(client=routing.client)):
        with pytest.raises(ConfigurationError, match="no agent"):
            empty.decide("weather")
        with pytest.raises(ConfigurationError, match="no agent"):
            routing.client.route("weather", empty)
    with pytest.raises(InvalidRequest, match="MemoryAwareRouter"):
        routing.client.route("weather", router, conversation_id="c")


def test_an_agent_with_a_memory_of_its_own_is_no_workers_to_route_to(routing: RoutingScene):
    """Its conversation would be nobody's; in the application, the caller says which one it is."""
    router = AgentRouter(client=routing.client)
    router.register(routing.agent("chat", memory=True), intents=["chat"])
    with pytest.raises(ConfigurationError, match="memory of its own"):
        routing.client.route("chat", router)
    router.route("chat with me", conversation_id="mine").get(TIMEOUT_S)
    assert [turn.role for turn in routing.memory.turns("mine")] == ["user", "assistant"]


async def test_a_message_with_a_garbled_table_fails_with_a_typed_error(routing: RoutingScene):
    """The worker lives, and tells nothing of what was in it."""
    router = routing.router()
    order = router.order("weather").model_dump(mode="json")
    routes = order["table"]["routes"]
    garbage: list[Any] = [
        {},
        {"table": "secret"},
        {**order, "table": {**order["table"], "routes": [routes[0], routes[0]]}},
        {**order, "table": {**order["table"], "routes": [{**routes[0], "plan": None}]}},
        {**order, "table": {**order["table"], "routes": [{**routes[0], "plan": {**routes[0]["plan"], "request": {}}}]}},
        {**order, "table": {**order["table"], "strategy": "secret"}},
        {**order, "tenant": "a:b"},
    ]
    for payload in garbage:
        sent = routing.client.app.signature(TaskName.ROUTE, args=[payload], queue=ROUTING).apply_async()
        with pytest.raises(InvalidRequest) as caught:
            await routing.client.result(sent.id).aget(TIMEOUT_S)
        assert "secret" not in str(caught.value)
    assert (await (await routing.client.aroute("weather", router)).aget(TIMEOUT_S)).decision


def test_agents_that_are_too_much_for_a_message_are_refused(routing: RoutingScene):
    """All of them travel with each query: their size has the limit of a prompt."""
    client = LLMClient(routing.settings.override(max_prompt_bytes=1_000))
    router = AgentRouter(client=client)
    router.register(routing.agent("weather"), intents=[f"weather {number}" for number in range(100)])
    with pytest.raises(PromptTooLarge):
        client.route("weather", router)


async def test_a_coroutine_function_is_waited_for_and_cancelled_like_a_task(routing: RoutingScene):
    """The same errors; giving up waiting does not end it."""
    begun = asyncio.Event()

    async def wait(query: str) -> str:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    router = routing.router()
    router.register(wait, intents=["wait"])
    result = await router.aroute("wait")
    with pytest.raises(ResultTimeout, match=result.id):
        await result.aget(0.05)
    await begun.wait()
    assert result.status() == "PENDING"
    result.cancel()
    with pytest.raises(TaskCancelled):
        await result
