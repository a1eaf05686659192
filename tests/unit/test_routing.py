"""Deciding which agent a query is for: by words and phrases, in English and in scripts without blanks."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kagura_tasks.conversations.turns import Turn
from kagura_tasks.errors import ConfigurationError, InvalidRequest, KaguraTasksError, QueryTooLong
from kagura_tasks.routing import deciding
from kagura_tasks.routing.context import ContextAnalyzer
from kagura_tasks.routing.deciding import Outside, concluded, replay
from kagura_tasks.routing.decision import ContextAnalysis, Decision
from kagura_tasks.routing.table import RouteTable
from kagura_tasks.routing.terms import Terms
from kagura_tasks.schemas import Completion, CompletionRequest

AGENTS: list[dict[str, Any]] = [
    {"name": "weather", "intents": ["weather", "forecast", "天気", "อากาศ"], "samples": ["will it rain tomorrow"]},
    {"name": "refunds", "intents": ["refund", "send back", "返品", "払い戻し", "환불"]},
    {"name": "translation", "intents": ["translate", "翻訳", "PDF翻訳"]},
]


def table(**options: object) -> RouteTable:
    return RouteTable.build(**{"routes": AGENTS, **options})


def decided(query: str, among: RouteTable | None = None, context: ContextAnalysis | None = None) -> Decision:
    return concluded(among or table(), query, context, {})


@pytest.mark.parametrize(
    ("query", "agent"),
    [
        ("What's the WEATHER in Tokyo?", "weather"),
        ("明日の天気は？", "weather"),
        ("ｗｅａｔｈｅｒ please", "weather"),  # noqa: RUF001 (full width)
        ("วันนี้อากาศเป็นอย่างไร", "weather"),  # Thai: no blanks
        ("I want to send it back", "refunds"),
        ("may I send back these shoes", "refunds"),
        ("Refunding works how?", "refunds"),
        ("この商品を返品したいのですが", "refunds"),
        ("환불해 주세요", "refunds"),  # Korean: a particle hangs on the word
        ("この文章を翻 訳して", "translation"),  # a stray blank
        ("このPDFを翻訳して", "translation"),
        ("how do I bake bread", None),
        ("パンの焼き方を教えてください", None),
    ],
)
def test_an_intent_is_found_in_any_script(query: str, agent: str | None):
    """Case, width, plural and script do not matter; what is nobody's is nobody's."""
    assert decided(query).agent == agent


def test_words_match_as_words():
    """`rain` is not in `training`; a script without blanks has no such bounds."""
    among = RouteTable.build(routes=[{"name": "rain", "intents": ["rain", "雨"]}])
    assert decided("a training plan", among).score == 0
    assert decided("大雨が心配", among).agent == "rain"


def test_a_phrase_counts_more_than_its_words_and_all_of_it_most():
    """The scores are ordered: equal, inside, in parts, nothing."""
    among = RouteTable.build(routes=[{"name": "orders", "intents": ["track my order"]}])
    queries = ["track my order", "please track my order from Monday", "the order that I track", "an order", "a song"]
    scores = [decided(query, among).score for query in queries]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1
    assert scores[-1] == 0
    assert len(set(scores)) == len(scores)


def test_a_word_that_all_agents_have_says_little():
    """Who shares it is not chosen by it."""
    routes = [
        {"name": name, "samples": [f"please help me with my account {name}"]}
        for name in ("alpha", "beta", "gamma", "delta")
    ]
    among = RouteTable.build(routes=routes)
    decision = decided("my account", among)
    assert decision.agent is None


def test_a_fallback_takes_what_fits_nobody():
    """The best scores are told all the same."""
    decision = decided("how do I bake bread", table(fallback={"name": "help"}))
    assert (decision.agent, decision.is_fallback) == ("help", True)
    shared = decided("send me a photo", table(fallback={"name": "help"}))
    assert shared.is_fallback
    assert shared.score == shared.runners_up[0].score > 0


def test_a_decision_names_the_runners_up_and_why():
    """Best first, each with what matched."""
    decision = decided("translate the weather forecast")
    assert decision.agent == "weather"
    assert decision.matched == ("weather", "forecast")
    assert [one.agent for one in decision.runners_up] == ["translation"]
    assert "forecast" in decision.reason


def test_a_record_replays_to_the_same_decision_in_another_process():
    """From JSON and the table alone, whatever the hash seed."""
    among = table(fallback={"name": "help"})
    records = [decided(query, among) for query in ("translate the forecast", "明日の天気予報", "bread", "send back it")]
    code = (
        "import sys; from kagura_tasks.routing.deciding import replay;"
        "from kagura_tasks.routing.table import RouteTable;"
        "from kagura_tasks.routing.decision import Decision; table = RouteTable.model_validate_json(sys.argv[1]);"
        "[print(replay(table, Decision.model_validate_json(one)).model_dump_json()) for one in sys.argv[2:]]"
    )
    given_json = [one.model_dump_json() for one in records]
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, among.model_dump_json(), *given_json]
        found = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True)
        assert found.stdout.splitlines() == given_json


def test_a_record_of_other_agents_is_refused():
    """What was decided among others cannot be decided again among these; how an agent answers does not matter."""
    record = decided("weather")
    with pytest.raises(InvalidRequest, match="another router"):
        replay(table(confidence_threshold=0.9), record)
    with_plan = [{**AGENTS[0], "plan": {"template": "{{ q }}", "takes": "q", "request": {"model": "m"}}}, *AGENTS[1:]]
    assert replay(table(routes=with_plan), record) == record


def test_a_record_shows_its_query_to_nobody_who_prints_it():
    """It is beside the answer, and not in a log."""
    record = decided("weather in my secret place", context=ContextAnalysis(rewritten="secret", earlier=("secret",)))
    assert "secret" not in repr(record)
    assert len(record.query_sha) == 64


@given(st.text(max_size=300))
def test_any_text_gets_a_decision_that_replays(query: str):
    """Garbage, half characters and control codes: a decision, or an error that says what is wrong."""
    among = table()
    try:
        among.check_query(query)
    except InvalidRequest:
        return
    record = decided(query, among)
    assert 0 <= record.score <= 1
    assert replay(among, Decision.model_validate_json(record.model_dump_json())) == record


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5))
def test_an_intent_fits_itself(intents: list[str]):
    """Any phrase that has letters is found by itself, with the highest score."""
    routes = [{"name": str(number), "intents": [intent]} for number, intent in enumerate(intents)]
    try:
        among = RouteTable.build(routes=routes)
    except ConfigurationError:
        return
    for intent in intents:
        if Terms.of(intent).words:
            assert decided(intent, among).score == 1


@pytest.mark.parametrize(
    "piece", ["a", "a ", "天", "天 ", "\u0301", "ﷺ", "and that one ", "は？", "((((", "\x00", "e\u0301\u0301"]
)
def test_a_long_query_of_any_kind_is_quick(piece: str):
    """Time grows with length, not faster: no pattern runs wild on what the size limit lets through."""
    query = (piece * 20_000)[:20_000]
    started = time.process_time()
    _ = concluded(table(max_query_chars=20_000), f"weather {query}", None, {})
    _ = ContextAnalyzer().reasons(query[:200]), ContextAnalyzer().reasons(query)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("query", "error"), [("x" * 4_001, QueryTooLong), (" ", InvalidRequest), ("\ud800", InvalidRequest)]
)
async def test_a_query_that_is_none_is_refused(query: str, error: type[KaguraTasksError]):
    """Too long, empty, or no text: an error that says so, and holds nothing of it."""
    with pytest.raises(error) as caught:
        await deciding.decide(table(), query, outside())
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"routes": []}, "routes"),
        ({"routes": [AGENTS[0], AGENTS[0]]}, "two agents have the name weather"),
        ({"routes": [{"name": "", "intents": ["x"]}]}, "name"),
        ({"confidence_threshold": 2}, "confidence_threshold"),
        ({"strategy": "luck"}, "strategy"),
        ({"strategy": "llm"}, "needs a model"),
    ],
)
def test_a_table_that_cannot_be_one_is_refused(fields: dict[str, Any], words: str):
    """Where it is made, with the name of what is wrong."""
    with pytest.raises(ConfigurationError, match=words):
        table(**fields)


def test_a_table_from_a_message_is_checked_like_any_other():
    """Garbage raises pydantic's error, which the worker's door makes one of ours."""
    with pytest.raises(ValidationError):
        RouteTable.model_validate({"routes": [{"name": "a", "plan": {"nonsense": 1}}]})


def outside(*answers: str) -> Outside:
    """A model that says these things, one after the other; embeddings that count a few letters."""
    said = iter(answers)

    async def ask(request: CompletionRequest, name: str) -> Completion:
        return Completion(text=next(said), model=request.model, finish_reason="stop")

    async def embed(model: str, samples: Any, queries: Any) -> Any:
        return [[_letters(text) for text in texts] for texts in (samples, queries)]

    return Outside(ask, embed, "default")


def _letters(text: str) -> list[float]:
    return [float(text.lower().count(letter)) for letter in "aeinorstwz天気返品"]


async def test_a_model_chooses_and_its_answer_is_the_record():
    """The answer is kept, so that the decision follows from it again."""
    among = table(strategy="llm", model="openai/gpt-x")
    answer = '{"agent": "refunds", "confidence": 0.9, "reason": "wants money back"}'
    decision = await deciding.decide(among, "Give me my money", outside(answer))
    assert (decision.agent, decision.score, decision.reason) == ("refunds", 0.9, "wants money back")
    assert replay(among, Decision.model_validate_json(decision.model_dump_json())) == decision


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I would choose refunds.",
        '{"agent": "refunds"}',
        '{"agent": "refunds", "confidence": 7}',
        '{"agent": "nobody", "confidence": 1}',
        '{"agent": null, "confidence": 1}',
        "[" * 100_000,
    ],
)
async def test_garbage_from_a_model_chooses_nobody(answer: str):
    """An agent is never guessed out of it: the fallback takes the query, or nobody."""
    among = table(strategy="llm", model="openai/gpt-x")
    decision = await deciding.decide(among, "Give me my money", outside(answer))
    assert (decision.agent, decision.is_fallback) == (None, True)
    assert replay(among, decision) == decision


async def test_nearness_chooses_and_replays_without_vectors():
    """Cosines are recorded with the digest of the query's vector."""
    routes = [{"name": "weather", "intents": ["天気"]}, {"name": "refunds", "samples": ["返品"]}]
    among = table(strategy="semantic", confidence_threshold=0.5, routes=routes)
    decision = await deciding.decide(among, "天気天気", outside())
    assert decision.agent == "weather"
    assert len(str(decision.evidence["vector_sha"])) == 64
    assert replay(among, Decision.model_validate_json(decision.model_dump_json())) == decision


@pytest.mark.parametrize("evidence", [{}, {"scores": 5}, {"scores": [{"agent": 1}]}, {"scores": "secret"}])
def test_a_record_without_evidence_is_refused(evidence: dict[str, Any]):
    """What nobody recorded cannot be decided again."""
    among = table(strategy="semantic")
    record = decided("weather").model_copy(update={"table_sha": among.sha, "evidence": evidence})
    with pytest.raises(InvalidRequest, match="holds no scores") as caught:
        replay(among, record)
    assert "secret" not in str(caught.value)


def turns(*contents: str) -> list[Turn]:
    """The user and the assistant in turn."""
    roles = ("user", "assistant")
    return [Turn(number=at + 1, role=roles[at % 2], content=text, at_ms=0) for at, text in enumerate(contents)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "query",
    [
        "And in Kyoto?",
        "What about the second one?",
        "Why?",
        "Tell me more.",
        "Can you send it to him?",
        "in French please",
        "Tomorrow?",
        "それはいつですか？",
        "じゃあ京都は？",
        "もっと詳しく",
        "なぜ？",
        "2番目のをお願いします",
        "英語でお願いします",
        "その前の日は？",
        "他にもありますか",
    ],
)
def test_a_follow_up_needs_its_conversation(query: str):
    """Pronouns, ordinals, fragments and follow-ups, in English and Japanese."""
    assert ContextAnalyzer().reasons(query)


@pytest.mark.parametrize(
    "query",
    [
        "What is the weather in Tokyo tomorrow?",
        "Is it going to rain in Osaka?",
        "Translate good morning into French.",
        "How many people live in Canada and Mexico?",
        "東京の明日の天気を教えてください",
        "注文した靴を返品したいです",
        "会議を3時に予約してください",
        "Please summarise: " + "it was that one, and they knew it. " * 20,
    ],
)
def test_a_whole_question_needs_none(query: str):
    """Also where it holds a word that may refer to something: of the weather, or inside a long text."""
    assert not ContextAnalyzer().reasons(query)


def test_a_follow_up_is_resolved_by_the_turns_since_the_last_whole_question():
    """What is older does not come along, and the frame is always the same."""
    before = turns(
        "My shoes are too small.", "Oh.", "What is the weather in Tokyo?", "Sunny.", "And in Osaka?", "Rainy."
    )
    analysis = ContextAnalyzer().analyze("and in Kyoto?", before)
    assert analysis.needs_context
    assert analysis.earlier == ("What is the weather in Tokyo?", "And in Osaka?")
    assert analysis.resolved_query == (
        "Earlier in this conversation:\nuser: What is the weather in Tokyo?\nassistant: Sunny.\n"
        "user: And in Osaka?\nassistant: Rainy.\n\nNow: and in Kyoto?"
    )


async def test_a_follow_up_is_decided_by_what_was_asked_before():
    """Its own words win where they are clear."""
    before = turns("What is the weather in Tokyo?", "Sunny.")

    async def analyze(query: str, turns: Any) -> ContextAnalysis:
        return ContextAnalyzer().analyze(query, turns)

    for query, agent in [("And in Kyoto?", "weather"), ("And a refund?", "refunds"), ("じゃあ京都は？", "weather")]:
        decision = await deciding.decide_in_conversation(table(), query, before, outside(), analyze)
        assert decision.agent == agent
        assert decision.resolved_query.endswith(f"Now: {query}")
        assert "Tokyo" in decision.resolved_query
        assert replay(table(), Decision.model_validate_json(decision.model_dump_json())) == decision


async def test_a_query_that_stands_alone_is_decided_once():
    """The decision that was made meanwhile stands; the answer to it is asked for once."""
    among = table(strategy="llm", model="openai/gpt-x", context={"model": "openai/gpt-x"})
    answers = ['{"needs_context": false, "query": "x"}', '{"agent": "weather", "confidence": 1, "reason": ""}']
    once = outside(*answers)
    decision = await deciding.decide_in_conversation(
        among, "Is it warm in Rome?", turns("Hello", "Hi"), once, deciding.analysis_by(among, once)
    )
    assert (decision.agent, decision.resolved_query) == ("weather", "Is it warm in Rome?")


async def test_a_model_rewrites_a_follow_up_and_rules_take_over_from_one_that_cannot():
    """What it wrote is what is decided about, and what the agent gets."""
    among = table(context={"model": "openai/gpt-x"})
    told = outside('{"needs_context": true, "query": "What is the weather in Kyoto?"}')
    before = turns("How is Tokyo, the weather?", "Sunny.")
    decision = await deciding.decide_in_conversation(among, "Kyoto?", before, told, deciding.analysis_by(among, told))
    assert (decision.agent, decision.resolved_query) == ("weather", "What is the weather in Kyoto?")
    garbage = outside('{"needs_context": true, "query": ""}')
    decision = await deciding.decide_in_conversation(
        among, "Kyoto?", before, garbage, deciding.analysis_by(among, garbage)
    )
    assert decision.agent == "weather"
    assert decision.resolved_query.endswith("Now: Kyoto?")
