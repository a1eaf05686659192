"""Routers against real workers: one decision, one handler, one answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

from kagura_tasks import (
    Completion,
    Decision,
    agent,
    signatures,
)
from kagura_tasks.connections import sync_client
from kagura_tasks.errors import (
    ConfigurationError,
    OutputInvalid,
)
from kagura_tasks.queues import ROUTING
from tests.support.routing_scene import TIMEOUT_S, Route, RoutingScene


async def test_a_thousand_queries_run_a_thousand_handlers(routing: RoutingScene):
    """Each query runs the one agent that it is for, once; each follow-up's agent sees what it goes on about."""
    router = routing.memory_router()
    asked: dict[str, tuple[str, str | None]] = {}
    for number in range(200):
        asked[f"What is the weather in Town{number}x?"] = ("weather", None)
        asked[f"I want a refund for order {number}x"] = ("refunds", None)
        asked[f"第{number}番の商品を返品したいです"] = ("refunds", None)
        asked[f"And in Village{number}x?"] = ("weather", f"en{number}")
        asked[f"じゃあ第{number}村は？"] = ("weather", f"ja{number}")

    async def talk(conversation: str) -> None:
        number = conversation[2:]
        before = (
            f"What is the forecast for City{number}x?" if conversation.startswith("en") else f"第{number}町の天気は？"
        )
        await routing.memory.aappend(conversation, "user", before)
        await routing.memory.aappend(conversation, "assistant", f"Sunny, all {number}x days.")

    await asyncio.gather(*(talk(conversation) for _, conversation in asked.values() if conversation))
    results = await asyncio.gather(
        *(routing.client.aroute(query, router, conversation_id=where) for query, (_, where) in asked.items())
    )
    answers = await asyncio.gather(*(result.aget(TIMEOUT_S) for result in results))

    assert routing.stub.count() == 1000
    prompts = routing.prompts()
    seen = {query: prompt for prompt in prompts for query in [prompt.query.rpartition("Now: ")[2]]}
    assert len(prompts) == len(seen) == len(asked) == 1000
    for query, (name, conversation) in asked.items():
        assert seen[query].agent == name
        if conversation is not None:
            number = conversation[2:]
            assert any(town in seen[query].query for town in (f"City{number}x", f"第{number}町"))
            assert f"assistant: Sunny, all {number}x days." in seen[query].query
    records = [Decision.model_validate(answer.decision) for answer in answers]
    assert all(router.replay(record) == record for record in records)


async def test_deciding_by_intents_asks_nobody(routing: RoutingScene):
    """No request reaches the provider, and no message a queue."""
    router = routing.memory_router()
    await routing.memory.aappend("c", "user", "What is the weather in Tokyo?")
    decisions = [await router.adecide(query, "c") for query in ("And in Kyoto?", "返品したい", "translate this")]
    assert [one.agent for one in decisions] == ["weather", "refunds", "translation"]
    assert routing.stub.count() == 0
    broker: Any = sync_client(routing.settings.broker, 2.0)
    assert broker.llen(ROUTING) == 0


async def test_a_query_is_answered_by_its_agent_alone(routing: RoutingScene, routed: Route):
    """The completion tells the decision, which replays."""
    routing.stub.script(when=f"[refunds {routing.word}]", text="Send it back.")
    router = routing.router()
    completion = await routed(router, "この靴を返品したい")
    assert completion.text == "Send it back."
    record = Decision.model_validate(completion.decision)
    assert (record.agent, record.query) == ("refunds", "この靴を返品したい")
    assert router.replay(record) == record
    assert [(one.agent, one.query) for one in routing.prompts()] == [("refunds", "この靴を返品したい")]


def test_the_record_in_redis_replays_in_another_process(routing: RoutingScene):
    """What is stored with the result, and the router's table, are enough."""
    router = routing.router(fallback_agent=routing.agent("help"))
    results = [routing.client.route(query, router) for query in ("Will the weather hold?", "zzz", "返品と翻訳")]
    for result in results:
        result.get(TIMEOUT_S)
    code = (
        "import json, sys; from kagura_tasks.routing.deciding import replay; from kagura_tasks.routing.table import"
        " RouteTable; from kagura_tasks.routing.decision import Decision; import redis;"
        "table = RouteTable.model_validate_json(sys.argv[2]); stored = redis.Redis.from_url(sys.argv[1]);"
        "records = [json.loads(stored.get('celery-task-meta-' + one))['result']['decision'] for one in sys.argv[3:]];"
        "found = [Decision.model_validate(one) for one in records];"
        "print([replay(table, one) == one for one in found], [one.agent for one in found])"
    )
    command = [sys.executable, "-c", code, str(routing.settings.results), router.table.model_dump_json()]
    done = subprocess.run([*command, *(one.id for one in results)], capture_output=True, text=True, check=True)
    assert done.stdout.split("]")[0] == "[True, True, True"
    assert "'weather', 'help', 'refunds'" in done.stdout


async def test_a_decision_is_never_remembered_with_an_answer(routing: RoutingScene):
    """An equal prompt that nobody routed has none; a routed one that was remembered has its own."""
    router = routing.router()
    first = await (await routing.client.aroute("weather in Rome", router))
    plain = await routing.client.acomplete(f"[weather {routing.word}] weather in Rome")
    again = await (await routing.client.aroute("weather in Rome", router))
    assert (first.cached, plain.cached, again.cached) == (False, True, True)
    assert plain.decision is None
    assert "decision" not in plain.model_dump(mode="json")
    assert again.decision is not None
    assert routing.stub.count() == 1


def test_a_router_knows_its_agents(routing: RoutingScene):
    """By name, and by how well each fits a query."""
    router = routing.router()
    assert router.list_agents() == ["weather", "refunds", "translation"]
    assert router.confidence_threshold == 0.35
    matched = router.get_matched_agents("翻訳した天気予報", top_k=2)
    assert [one.agent for one in matched] == ["weather", "translation"]
    assert router.get_matched_agents("bread") == []


async def test_a_routed_answer_can_be_read_as_a_stream(routing: RoutingScene):
    """All of its text at its end: the task does not stream."""
    routing.stub.script(when=routing.word, text="Sunny, all day.")
    result = await routing.client.aroute("weather", routing.router())
    assert "".join([chunk.text async for chunk in result.stream()]) == "Sunny, all day."


def test_a_signature_routes_in_a_canvas(routing: RoutingScene):
    """It is a message like any other, to the queue of routing."""
    signature = signatures.route(routing.client.app, routing.router().order("weather in Oslo"))
    assert signature.options["queue"] == ROUTING
    result = Completion.model_validate(signature.apply_async().get(timeout=TIMEOUT_S))
    assert result.decision is not None
    assert result.decision["agent"] == "weather"


class Place(BaseModel):
    city: str


async def test_an_agents_form_is_kept(routing: RoutingScene, routed: Route):
    """The answer is an instance of the declared model; what does not fit is asked for again."""

    @agent(client=routing.client)
    async def place(query: str) -> Place:
        """Where? {{ query }}"""
        raise AssertionError

    router = routing.router()
    router.register(place, intents=["where is"])
    routing.stub.script(when=f"Where? where is it {routing.word}", text='{"city": "Oslo"}')
    routing.stub.script(when=f"Where? where is it {routing.word}", text="Oslo", times=1)
    assert (await routed(router, f"where is it {routing.word}")).parsed == Place(city="Oslo")
    routing.stub.script(when=f"Where? where is he {routing.word}", text="Oslo")
    with pytest.raises(OutputInvalid):
        await routed(router, f"where is he {routing.word}")


async def test_a_coroutine_function_answers_in_the_application(routing: RoutingScene):
    """It runs once, on the running loop; it cannot travel."""
    ran: list[object] = []

    async def count(query: str, more: int = 0) -> int:
        ran.append((query, asyncio.get_running_loop()))
        return len(query) + more

    router = routing.router()
    router.register(count, intents=["count"])
    result = await router.aroute("count me", more=1)
    completion = await result
    assert (completion.text, completion.parsed, result.status()) == ("9", 9, "SUCCESS")
    assert result.decision is not None
    assert result.decision.agent == "count"
    assert ran == [("count me", asyncio.get_running_loop())]
    with pytest.raises(ConfigurationError, match="only an @agent travels"):
        await routing.client.aroute("count me", router)
