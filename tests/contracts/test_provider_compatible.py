"""One contract for the providers that speak OpenAI's format: both lanes send and hear the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from kagura_tasks import errors
from kagura_tasks.providers.compatible import DIALECTS
from kagura_tasks.schemas import Completion, CompletionRequest, Message
from tests.support.lanes import CALL, MARKS, Knowledge, Lane, failure, request
from tests.support.llm import StubServer
from tests.support.streams import ANSWER, DONE, STOP, USED, WHOLE, chunk, read, text_chunks

pytestmark = MARKS

#: A model of each, with a price where LiteLLM knows one; its variables; and where it is without them.
MODELS: Final = {
    "groq/openai/gpt-oss-20b": ("GROQ_API_BASE", "GROQ_API_KEY", "https://api.groq.com/openai/v1"),
    "deepseek/deepseek-chat": ("DEEPSEEK_API_BASE", "DEEPSEEK_API_KEY", "https://api.deepseek.com/beta"),
    "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo": (
        *("TOGETHER_AI_API_BASE", "TOGETHERAI_API_KEY"),
        "https://api.together.ai/v1",
    ),
    "cerebras/llama3.1-8b": ("CEREBRAS_API_BASE", "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1"),
    "nvidia_nim/meta/llama3-8b-instruct": (
        *("NVIDIA_NIM_API_BASE", "NVIDIA_NIM_API_KEY"),
        "https://integrate.api.nvidia.com/v1",
    ),
    "lm_studio/some-model": ("LM_STUDIO_API_BASE", "LM_STUDIO_API_KEY", None),
}
BOTH: Final = ("direct", "litellm")

SCHEMA = {"type": "object", "properties": {"at": {"type": "string", "pattern": "("}}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA, "strict": True}}
]
#: What some of them take. What a provider or LiteLLM does not take as it is, the direct lane leaves to LiteLLM.
PARAMS: Final[list[dict[str, Any]]] = [
    {},
    {"temperature": 0.5, "top_p": 1, "max_tokens": 5, "stop": ["a", "b"]},
    {"max_tokens": 5, "stop": "x"},
    {"seed": 1},
    {"presence_penalty": 0.1, "frequency_penalty": -0.1},
    {"n": 1},
    {"logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}},
    {"max_completion_tokens": 5},
    {"user": "somebody"},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    {"extra_body": {"top_k": 5, "guided": {"a": [1]}}, "extra_headers": {"X-Trace": "1"}},
    {"tools": TOOLS},
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "look"}}, "parallel_tool_calls": False},
]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
ASKED = {"role": "user", "content": "What is there? 日本語"}
RESULT = {"role": "tool", "content": "the sky", "tool_call_id": "call_1"}
TURNS: Final[list[list[dict[str, Any]]]] = [
    [{"role": "system", "content": "Be brief."}, {**ASKED, "name": "somebody"}],
    [ASKED, {"role": "assistant", "content": "A tree."}, {"role": "system", "content": "Be brief."}, ASKED],
    [ASKED, {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}, RESULT],
    [ASKED, {"role": "assistant", "tool_calls": [CALL]}, RESULT],
    [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}],
]


@pytest.fixture(params=MODELS, ids=lambda model: model.partition("/")[0])
def model(request: pytest.FixtureRequest, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model of each provider, whose own variables say where it is."""
    from kagura_tasks.providers.litellm import missing_keys

    base, key, _ = MODELS[request.param]
    monkeypatch.setenv(base, stub.base_url)
    monkeypatch.setenv(key, "sk-canary-own")
    monkeypatch.setenv("OPENAI_ORGANIZATION", "org-canary")
    missing_keys.cache_clear()
    answers_as_groq(stub)
    yield request.param
    missing_keys.cache_clear()


def answers_as_groq(stub: StubServer, **behaviour: Any) -> None:
    """Groq names a tier in each answer, and LiteLLM fails without it."""
    fields = {"service_tier": "on_demand", **behaviour.pop("fields", {})}
    stub.script(fields=fields, **behaviour)


def takes(lane: Lane, asked: CompletionRequest) -> bool:
    """The direct lane makes this call."""
    try:
        lane.send(asked)
    except AssertionError:
        return False
    return True


def streamed(lane: Lane, asked: CompletionRequest) -> Completion:
    return lane.loop.run(lane.provider.stream(asked, 10, lambda _: None))


#: Who is asked for what, as opposed to who asks.
HEADERS: Final = {"authorization", "content-type", "x-trace", "openai-organization", "openai-project", "api-key"}


def on_the_wire(seen: dict[str, Any]) -> tuple[object, ...]:
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    about_the_client = {name for name in headers if name.startswith("x-stainless")}
    rest = {"user-agent", "accept", "accept-encoding", "content-length", "host", "connection"}
    assert headers.keys() - about_the_client - rest <= HEADERS
    return seen["body"], {name: headers.get(name) for name in HEADERS}


def of_turns(model: str, turns: list[dict[str, Any]]) -> CompletionRequest:
    return CompletionRequest(model=model, messages=tuple(map(Message.model_validate, turns)))


@pytest.mark.parametrize("how", [Lane.send, streamed], ids=["plain", "streamed"])
def test_both_lanes_send_the_same_and_hear_the_same(lanes: dict[str, Lane], stub: StubServer, model: str, how: Any):
    """The body, the key and all other headers that are not about the client; and the completion, with its price."""
    asked = [request(model=model, **params) for params in PARAMS] + [of_turns(model, turns) for turns in TURNS]
    taken = [one for one in asked if takes(lanes["direct"], one)]
    assert len(taken) >= len(asked) / 2
    for one in taken:
        stub.reset()
        answers_as_groq(stub)
        direct, litellm = [how(lanes[name], one) for name in BOTH]
        assert direct.model_copy(update={"usage": None}) == litellm.model_copy(update={"usage": None})
        same_usage(direct, litellm)
        sent = [on_the_wire(seen) for seen in stub.ledger()["requests"]]
        assert sent[0] == sent[1]
        assert sent[0][1]["authorization"] == "Bearer sk-canary-own"


def same_usage(one: Completion, other: Completion) -> None:
    assert one.usage.model_copy(update={"cost_usd": None}) == other.usage.model_copy(update={"cost_usd": None})
    assert one.usage.cost_usd == pytest.approx(other.usage.cost_usd)


LEFT: Final = {
    "groq": [{"max_completion_tokens": 5}, {"response_format": {"type": "json_object"}}],
    "together_ai": [{"tools": TOOLS}, {"response_format": {"type": "json_object"}}],
    "cerebras": [{"max_completion_tokens": 5}],
    "nvidia_nim": [{"max_completion_tokens": 5}],
    "lm_studio": [{"user": "somebody"}],
    "deepseek": [{"user": "somebody"}],
}


def test_what_litellm_changes_is_left_to_it(lanes: dict[str, Lane], stub: StubServer, model: str):
    """Parameters that it renames, replaces, or looks up first; parts of messages that it joins."""
    provider = model.partition("/")[0]
    asked = [request(model=model, **params) for params in LEFT[provider]]
    asked += [of_turns(model, turns) for turns in TURNS[4:] if provider == "deepseek"]
    for one in asked:
        assert not takes(lanes["direct"], one)
    assert stub.count() == 0


def answer(message: dict[str, Any], reason: str | None = "stop") -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": reason}]
    }


@pytest.mark.parametrize(
    "answers",
    [
        [{"finish_reason": reason} for reason in ("stop", "length", "content_filter", "tool_calls", "eos", "", None)],
        [{"fields": answer({"tool_calls": [CALL]}, reason)} for reason in ("tool_calls", "stop", None)],
        [{"fields": answer({"content": text})} for text in ("", None, "<think>Hm.</think>So.", "<think>Hm.")],
        [{"fields": answer({"content": "So.", name: "Hm."})} for name in ("reasoning", "reasoning_content")],
        [{"fields": {"usage": used}} for used in (None, {}, {"prompt_tokens": 3})],
    ],
    ids=["reasons", "tools", "thoughts in the text", "thoughts", "no usage"],
)
def test_answers_are_read_the_same(lanes: dict[str, Lane], stub: StubServer, model: str, answers: list[Any]):
    """Reasons, calls of tools, thoughts, usage: all that a completion has."""
    for behaviour in answers:
        answers_as_groq(stub, **behaviour)
        direct, litellm = [lanes[name].ask(model=model) for name in BOTH]
        assert direct == litellm.model_copy(update={"usage": direct.usage}), behaviour
        same_usage(direct, litellm)


USAGES: Final[list[dict[str, Any]]] = [
    USED,
    {**USED, "prompt_tokens_details": {"cached_tokens": 600}},
    {**USED, "prompt_cache_hit_tokens": 600, "prompt_cache_miss_tokens": 400},
    {**USED, "prompt_cache_hit_tokens": 600, "prompt_tokens_details": {"cached_tokens": 600}},
    {**USED, "completion_tokens_details": {"reasoning_tokens": 50}},
    {**USED, "queue_time": 0.1, "prompt_time": 0.1, "completion_time": 0.2, "total_time": 0.3},
    {**USED, "prompt_tokens": 250_000, "total_tokens": 250_100},
]


def test_prices_are_the_same(lanes: dict[str, Lane], stub: StubServer, model: str):
    """Of tokens from the provider's cache as well, whatever it calls them, and in each tier."""
    answers = [{"usage": used} for used in USAGES]
    answers += [{"usage": USED, "service_tier": tier} for tier in ("auto", "default", "flex", "priority", "on_demand")]
    for fields in [*answers, {"usage": USED, "model": "another"}]:
        answers_as_groq(stub, fields=fields)
        same_usage(*[lanes[name].ask(model=model) for name in BOTH])


def test_a_model_without_a_price_has_none(lanes: dict[str, Lane], model: str):
    """In both lanes the same nothing."""
    unknown = f"{model.partition('/')[0]}/none-that-has-a-price"
    costs = [lanes[name].ask(model=unknown).usage.cost_usd for name in BOTH]
    assert costs[0] == costs[1]
    assert not costs[0]


BEGUN = [{**CALL, "index": 0, "function": {"name": "look", "arguments": ""}}]
REST = [{"index": 0, "function": {"arguments": CALL["function"]["arguments"]}}]


@pytest.mark.parametrize(
    "events",
    [
        ANSWER,
        [*ANSWER[:4], chunk(reason="stop", usage=USED, x_groq={"usage": USED}), DONE],
        [chunk({"content": "one"}, usage=USED), chunk(reason="length", usage=USED), DONE],
        [*ANSWER[:5], DONE],
        [*ANSWER[:5], chunk(choices=[], usage=USAGES[2]), DONE],
        [chunk({"tool_calls": BEGUN}), chunk({"tool_calls": REST}), chunk(reason="tool_calls"), ANSWER[5], DONE],
        [chunk({"reasoning": "Hm."}), chunk({"reasoning_content": "Hm."}), *ANSWER[1:]],
        [*text_chunks("<think>", "Hm.", "</think>", "So."), STOP, ANSWER[5], DONE],
    ],
    ids=["OpenAI's", "Groq's", "usage each time", "no usage", "cached", "tools", "thoughts", "thoughts in the text"],
)
def test_streams_are_read_the_same(lanes: dict[str, Lane], model: str, events: list[bytes]):
    """In the forms that their servers use."""
    direct, litellm = [read(lanes[name], events, model=model) for name in BOTH]
    assert direct == litellm.model_copy(update={"usage": direct.usage})
    same_usage(direct, litellm)


def test_a_cut_stream_is_no_answer(lanes: dict[str, Lane], model: str):
    """At its beginning, in its middle, and before the reason for the end."""
    for kept in range(0, WHOLE, 2):
        for name in BOTH:
            with pytest.raises(errors.ProviderUnavailable):
                read(lanes[name], ANSWER[:kept], model=model)


@pytest.mark.parametrize(
    "events",
    [[*ANSWER[:4], DONE], [*ANSWER[:2], b"data: {not json\n\n", *ANSWER[2:], DONE]],
    ids=["done without a reason", "unreadable in the middle"],
)
def test_a_stream_with_a_hole_is_no_answer(lanes: dict[str, Lane], model: str, events: list[bytes]):
    """A server that only says that it is done was cut, and a text without one of its parts is none."""
    for name in BOTH:
        with pytest.raises(errors.ProviderUnavailable):
            read(lanes[name], events, model=model)


def test_a_text_may_say_that_it_is_done(lanes: dict[str, Lane], model: str):
    """The words that end a stream are text within one."""
    for name in BOTH:
        assert (
            read(lanes[name], [*text_chunks("say [DONE]", " twice"), STOP, DONE], model=model).text
            == "say [DONE] twice"
        )


def complaint(**fields: object) -> str:
    return json.dumps({"error": {"message": "canary words", **fields}})


REFUSALS: Final = [
    *((status, None) for status in (400, 401, 403, 404, 408, 422, 429, 500, 503)),
    *((status, "<html>canary</html>") for status in (400, 500)),
    (400, complaint(code="bad_value", param="temperature", type="invalid_request_error")),
    (400, complaint(code="context_length_exceeded", param="messages", type="invalid_request_error")),
    (400, complaint(code="content_filter")),
    (404, complaint(code="model_not_found", type="invalid_request_error")),
    (400, complaint(message="This model's maximum context length is 8 tokens.")),
    (503, complaint(code="overloaded")),
]


@pytest.mark.parametrize("in_stream", [False, True], ids=["plain", "streamed"])
def test_refusals_are_the_same_errors(lanes: dict[str, Lane], stub: StubServer, model: str, in_stream: bool):
    """By their status, their code word and the wait that they ask for."""
    for status, body in REFUSALS[:: 4 if in_stream else 1]:
        # A short wait: LiteLLM lets OpenAI's client ask NVIDIA three times.
        stub.script(status=status, body=body, headers={"Retry-After": "0.02"})
        direct, litellm = [failure(lanes[name], streamed=in_stream, model=model) for name in BOTH]
        assert direct == litellm, (status, body)


def test_a_missing_key_is_named(lanes: dict[str, Lane], stub: StubServer, model: str, monkeypatch: pytest.MonkeyPatch):
    """Nothing is sent, and OpenAI's key is not taken in its place by the direct lane."""
    _, key, _ = MODELS[model]
    monkeypatch.delenv(key)
    if model.startswith("lm_studio/"):  # which wants none
        assert takes(lanes["direct"], request(model=model))
    else:
        assert not takes(lanes["direct"], request(model=model))
        assert stub.count() == 0


def test_addresses_are_those_of_litellm(model: str, monkeypatch: pytest.MonkeyPatch):
    """Where no variable says where; a server of one's own is nowhere then."""
    from kagura_tasks.providers.litellm import LiteLLMProvider

    base, _, address = MODELS[model]
    monkeypatch.delenv(base)
    route = Knowledge(LiteLLMProvider()).route(model, None)
    assert (route.url if route else None) == (f"{address}/chat/completions" if address else None)


def test_every_provider_of_the_list_is_held_to_this():
    """OpenAI's own and vLLM's contract is that of the lanes."""
    assert {model.partition("/")[0] for model in MODELS} == DIALECTS.keys() - {"openai", "hosted_vllm"}


def test_a_model_that_runs_tools_is_left_to_litellm(lanes: dict[str, Lane], monkeypatch: pytest.MonkeyPatch):
    """They cost extra, which only LiteLLM counts."""
    monkeypatch.setenv("GROQ_API_KEY", "sk-canary-own")
    assert not takes(lanes["direct"], request(model="groq/compound-mini", api_base=lanes["direct"].api_base))
