"""One contract for both lanes to a model: the same answers, the same errors, over real HTTP."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kagura_tasks import errors
from kagura_tasks.connections import close_async_clients
from kagura_tasks.loops import LoopThread
from kagura_tasks.providers.provider import Provider
from kagura_tasks.schemas import Completion, CompletionRequest, Message
from tests.support.llm import StubServer
from tests.support.wait import until

pytestmark = pytest.mark.litellm

KEY = "sk-canary-key"
MODEL = "openai/gpt-4o-mini"


#: An answer that calls a tool.
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "the sky"}'}}

USED = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


@dataclass(frozen=True)
class Lane:
    """A way to the model, and the loop that it runs on."""

    name: str
    provider: Provider
    loop: LoopThread
    api_base: str

    def ask(
        self, prompt: str = "canary prompt", timeout_s: float = 10, model: str = MODEL, **params: Any
    ) -> Completion:
        """One call of the scripted provider."""
        return self.send(request(prompt, model=model, **{"api_base": self.api_base, **params}), timeout_s)

    def send(self, what: CompletionRequest, timeout_s: float = 10) -> Completion:
        """One call."""
        return self.loop.run(self.provider.complete(what, timeout_s))


def request(prompt: str = "canary prompt", model: str = MODEL, **params: Any) -> CompletionRequest:
    return CompletionRequest.model_validate(
        {"model": model, "messages": [{"role": "user", "content": prompt}], "params": params}
    )


class Knowledge:
    """LiteLLM for the direct lane: it may be asked, but makes no call."""

    def __init__(self, litellm: Any) -> None:
        self.route, self.read, self.cost_usd = litellm.route, litellm.read, litellm.cost_usd

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        raise AssertionError(f"the direct lane did not take this request: {request}")


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """One loop for all, as in a worker."""
    loop = LoopThread("test-lanes")
    yield loop
    loop.run(close_async_clients())


@pytest.fixture(scope="module")
def providers() -> dict[str, Provider]:
    from kagura_tasks.providers.lanes import Lanes
    from kagura_tasks.providers.litellm import LiteLLMProvider, prepare

    prepare()
    litellm = LiteLLMProvider()
    return {"litellm": litellm, "direct": Lanes(Knowledge(litellm)), "auto": Lanes(litellm)}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def lanes(providers: dict[str, Provider], loop: LoopThread, stub: StubServer) -> dict[str, Lane]:
    return {name: Lane(name, provider, loop, stub.base_url) for name, provider in providers.items()}


@pytest.fixture(params=["litellm", "direct"])
def lane(request: pytest.FixtureRequest, lanes: dict[str, Lane]) -> Lane:
    return lanes[request.param]


def answer(message: object, reason: str | None = "stop") -> dict[str, Any]:
    """The fields of a completion with this message."""
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def error(**fields: object) -> str:
    return json.dumps({"error": {"message": "canary words of the provider", **fields}})


def failure(lane: Lane, **params: Any) -> tuple[object, ...]:
    """The error that a caller sees: all but its text, which quotes nothing."""
    with pytest.raises(errors.ProviderError) as caught:
        lane.ask(**params)
    assert "canary" not in str(caught.value)
    return caught.type, *caught.value.args[1:]


@pytest.mark.parametrize(
    "reason",
    ["stop", "length", "content_filter", "tool_calls", "function_call", None, "", "eos", "SAFETY", "unheard_of"],
)
def test_the_reason_for_the_end_is_the_same(lanes: dict[str, Lane], stub: StubServer, reason: str | None):
    """A reason that was not given stays "", one of another provider is read as LiteLLM reads it."""
    stub.script(finish_reason=reason)
    seen = lanes["litellm"].ask()
    assert lanes["direct"].ask() == seen
    assert seen.finish_reason == {"function_call": "tool_calls", None: "", "SAFETY": "content_filter"}.get(
        reason, reason
    )


@pytest.mark.parametrize("reason", ["tool_calls", "function_call", "stop", "length", None])
def test_calls_of_tools_are_the_same(lanes: dict[str, Lane], stub: StubServer, reason: str | None):
    """In OpenAI's form, whatever the server gives as the reason."""
    stub.script(fields=answer({"role": "assistant", "content": None, "tool_calls": [CALL]}, reason))
    seen = lanes["litellm"].ask()
    assert lanes["direct"].ask() == seen
    assert (seen.text, seen.tool_calls) == ("", (CALL,))


@pytest.mark.parametrize(
    "fields",
    [
        answer({"role": "assistant", "content": ""}),
        answer({"role": "assistant", "content": None}),
        answer({"content": "A server that names no role."}),
        answer({"role": "assistant", "content": "<think>Hm.</think>So."}),
        answer({"role": "assistant", "content": "<think>Hm."}),
        answer({"role": "assistant", "content": "So.", "reasoning_content": "Hm."}),
        answer({"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}]}),
        {"choices": [answer({"role": "assistant", "content": str(turn)})["choices"][0] for turn in range(2)]},
        {"error": {}},
        {"error": None},
    ],
    ids=str,
)
def test_unusual_answers_are_read_the_same(lanes: dict[str, Lane], stub: StubServer, fields: dict[str, Any]):
    """Thoughts in the text, missing fields, more choices than were asked for."""
    stub.script(fields=fields)
    assert lanes["direct"].ask() == lanes["litellm"].ask()


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": None},
        {"usage": {}},
        {"usage": USED},
        {"usage": {"prompt_tokens": 3}},
        {"usage": {**USED, "prompt_tokens_details": {"cached_tokens": 600, "audio_tokens": 0}}},
        {"usage": {**USED, "completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 0}}},
        {"usage": {**USED, "prompt_tokens_details": {"audio_tokens": 10}}},
        {"usage": {**USED, "prompt_tokens": 250_000}},
        {"usage": USED, "model": "gpt-4o-2024-08-06"},
        {"usage": USED, "model": "none-that-has-a-price"},
        {"usage": USED, "service_tier": "default"},
        {"usage": USED, "service_tier": "priority"},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [MODEL, "openai/none-that-has-a-price"])
def test_usage_and_price_are_the_same(lanes: dict[str, Lane], stub: StubServer, model: str, fields: dict[str, Any]):
    """The price is LiteLLM's to the last digit that matters, or None in both."""
    stub.script(fields=fields)
    for _ in range(2):
        one, other = lanes["direct"].ask(model=model).usage, lanes["litellm"].ask(model=model).usage
        assert one.model_copy(update={"cost_usd": other.cost_usd}) == other
        assert one.cost_usd == pytest.approx(other.cost_usd)


@pytest.mark.parametrize("body", [None, "<html>canary</html>", error(code="some_code", param="temperature")], ids=str)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, errors.RequestRefused) for status in (400, 402, 405, 413, 422)),
        *((status, errors.AuthenticationFailed) for status in (401, 403)),
        *((status, errors.ProviderTimeout) for status in (408, 504)),
        *((status, errors.ProviderUnavailable) for status in (409, 425, 500, 501, 502, 503, 520, 529)),
        (404, errors.UnknownModel),
        (429, errors.RateLimited),
    ],
)
def test_a_status_is_the_same_error(lanes: dict[str, Lane], stub: StubServer, status: int, expected: type, body):
    """With the wait that the provider asked for, and without a word of what it said."""
    stub.script(status=status, body=body, headers={"Retry-After": "2"})
    seen = failure(lanes["litellm"])
    assert failure(lanes["direct"]) == seen
    wait = [2.0] if issubclass(expected, errors.TransientError) else []
    assert seen == (expected, MODEL, status, *wait)


@pytest.mark.parametrize("kind", ["invalid_request_error", "BadRequestError", None])
@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (400, {"code": "context_length_exceeded"}, errors.ContextTooLong),
        (400, {"code": "content_policy_violation"}, errors.ContentRefused),
        (400, {"code": "content_filter"}, errors.ContentRefused),
        (404, {"code": "model_not_found"}, errors.UnknownModel),
        (400, {"message": "This model's maximum context length is 8 tokens.", "code": 400}, errors.ContextTooLong),
        (400, {"message": "request (9 tokens) exceeds the available context size"}, errors.ContextTooLong),
        (400, {"message": "Invalid prompt: flagged as violating our usage policy"}, errors.ContentRefused),
        (500, {"code": "server_error"}, errors.ProviderUnavailable),
        (503, {"code": "overloaded"}, errors.ProviderUnavailable),
    ],
)
def test_code_words_say_more_than_a_status(lanes, stub: StubServer, status: int, fields, expected: type, kind):
    """OpenAI's codes, and the sentences of servers that have none; a 5xx is another try whatever is beside it."""
    stub.script(status=status, body=error(**{"type": kind, **fields}))
    seen = failure(lanes["litellm"])
    assert failure(lanes["direct"]) == seen
    assert seen[0] is expected


def test_a_refusal_names_the_parameter(lane: Lane, stub: StubServer):
    """The code word and the parameter are said, the sentence is not."""
    stub.script(status=400, body=error(code="bad_value", param="temperature", type="invalid_request_error"))
    with pytest.raises(errors.RequestRefused, match="code=bad_value, param=temperature"):
        lane.ask(temperature=0.3)
    stub.script(status=400, body=error(message="canary: top_p is too large"))
    with pytest.raises(errors.RequestRefused, match="parameters=top_p") as caught:
        lane.ask(top_p=0.3)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        ({"Retry-After": "Wed, 21 Oct 2037 07:28:00 GMT"}, 0.0),
        ({}, 0.0),
    ],
    ids=str,
)
def test_the_wait_is_the_providers(lane: Lane, stub: StubServer, headers: dict[str, str], wait_s: float):
    """In seconds or in milliseconds; a date is none."""
    stub.script(status=429, headers=headers)
    with pytest.raises(errors.RateLimited) as caught:
        lane.ask()
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    "fault",
    [
        *({"body": body} for body in ("canary", "", "[]", "null", '{"choices": [{"ind', "<html>canary</html>")),
        *({"fields": {"choices": choices}} for choices in (None, [], "x", [None], [{}], [{"message": None}])),
        {"body": "{}"},
        {"cut_after": 0},
    ],
    ids=str,
)
def test_what_is_no_answer_may_be_tried_again(lane: Lane, stub: StubServer, fault: dict[str, Any]):
    """No JSON, no choices, no message, no bytes at all."""
    stub.script(**fault)
    assert failure(lane) == (errors.ProviderUnavailable, MODEL, 0, 0.0)


def test_an_error_in_an_answer_is_one(lanes: dict[str, Lane], stub: StubServer):
    """Some gateways say 200 and mean 429."""
    stub.script(fields={"error": {"message": "canary", "code": 429}})
    seen = failure(lanes["litellm"])
    assert failure(lanes["direct"]) == seen == (errors.RateLimited, MODEL, 429, 0.0)


def test_nobody_there_may_be_tried_again(lane: Lane):
    """A refused connection."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        assert failure(lane, api_base=address) == (errors.ProviderUnavailable, MODEL, 0, 0.0)


def test_a_call_ends_at_its_timeout(lane: Lane, stub: StubServer):
    """Soon after it, and the provider sees the connection close."""
    stub.script(delay_s=30)
    started = time.monotonic()
    assert failure(lane, timeout_s=0.3) == (errors.ProviderTimeout, MODEL, 0, 0.0)
    assert time.monotonic() - started < 2
    until(lambda: stub.ledger()["in_flight"] == 0, 2, "a closed connection")


def test_cancelling_closes_the_connection(lane: Lane, stub: StubServer):
    """At once, and the provider stops writing."""
    stub.script(delay_s=30)
    call = lane.loop.submit(lane.provider.complete(request(api_base=lane.api_base), 30))
    until(lambda: stub.ledger()["in_flight"] == 1, 5, "a call in flight")
    call.cancel()
    until(lambda: stub.ledger()["in_flight"] == 0, 1, "a closed connection")
    assert stub.ledger()["requests"][0]["left"]


def test_an_endless_answer_is_given_up(lanes: dict[str, Lane], stub: StubServer, monkeypatch: pytest.MonkeyPatch):
    """It does not fill the worker's memory."""
    monkeypatch.setattr("kagura_tasks.providers.direct._MAX_ANSWER_BYTES", 2**20)
    stub.script(text="x" * 2**21)
    with pytest.raises(errors.RequestRefused, match="larger than 1 MB"):
        lanes["direct"].ask()


def test_a_missing_key_is_named(lanes: dict[str, Lane], stub: StubServer, monkeypatch: pytest.MonkeyPatch):
    """And nothing is sent; as soon as it is there, it is used."""
    from kagura_tasks.providers.litellm import missing_keys

    monkeypatch.delenv("OPENAI_API_KEY")
    missing_keys.cache_clear()
    with pytest.raises(errors.AuthenticationFailed, match="OPENAI_API_KEY"):
        lanes["auto"].ask()
    assert stub.count() == 0
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    missing_keys.cache_clear()
    lanes["direct"].ask()
    assert stub.ledger()["requests"][0]["headers"]["Authorization"] == "Bearer sk-another"


def test_a_redirect_does_not_get_the_key(lanes: dict[str, Lane], stub: StubServer):
    """LiteLLM follows it, and leaves the key behind when the host is another."""
    elsewhere = stub.base_url.replace("127.0.0.1", "localhost")
    stub.script(status=307, headers={"Location": f"{elsewhere}/chat/completions"}, times=2)
    lanes["auto"].ask()
    keys = [seen["headers"].get("Authorization") for seen in stub.ledger()["requests"]]
    assert keys == [f"Bearer {KEY}", f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("openai/o1", {}),
        ("openai/gpt-5", {}),
        ("anthropic/claude-3-haiku-20240307", {}),
        ("azure/gpt-4o", {}),
        ("groq/llama-3.1-8b-instant", {}),
        (MODEL, {"n": 2}),
        (MODEL, {"drop_params": True}),
        (MODEL, {"mock_response": "hello"}),
        (MODEL, {"metadata": {"a": "b"}}),
        (MODEL, {"service_tier": "flex"}),
        (MODEL, {"temperature": None}),
        (MODEL, {"extra_headers": {"Host": "elsewhere"}}),
        (MODEL, {"extra_body": {"stream": True}}),
        (MODEL, {"api_base": "http://user@127.0.0.1/v1"}),
        (MODEL, {"api_base": "http://127.0.0.1/v1?version=1"}),
        (MODEL, {"tools": [{"type": "web_search"}]}),
        (MODEL, {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"anyOf": []}}}]}),
        (MODEL, {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"pattern": "("}}}]}),
        (MODEL, {"tool_choice": "auto"}),
        ("openai/gpt-4", {"response_format": {"type": "json_object"}}),
        ("openai/none-of-openais", {"user": "somebody"}),
    ],
    ids=str,
)
def test_the_rest_is_left_to_litellm(lanes: dict[str, Lane], stub: StubServer, model: str, params: dict[str, Any]):
    """Other formats, and parameters that LiteLLM rewrites or refuses."""
    with pytest.raises(AssertionError, match="did not take"):
        lanes["direct"].ask(model=model, **params)
    assert stub.count() == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("success_callback", ["langfuse"]), ("drop_params", True), ("api_key", "k"), ("cache", object())],
)
def test_who_sets_litellm_up_gets_litellm(lanes: dict[str, Lane], monkeypatch: pytest.MonkeyPatch, name: str, value):
    """Callbacks are called, and settings count."""
    import litellm

    monkeypatch.setattr(litellm, name, value)
    with pytest.raises(AssertionError, match="did not take"):
        lanes["direct"].ask()


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.org/a.png"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "a"}}]},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "\ud800"},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
    ],
    ids=str,
)
def test_messages_that_litellm_rewrites_are_left_to_it(lanes: dict[str, Lane], stub: StubServer, message: dict):
    """Roles, parts and fields that are not the same for every server."""
    params = {"api_base": stub.base_url}
    with pytest.raises(AssertionError, match="did not take"):
        lanes["direct"].send(CompletionRequest(model=MODEL, messages=(Message(**message),), params=params))


def test_a_proxy_is_left_to_litellm(lanes: dict[str, Lane], monkeypatch: pytest.MonkeyPatch):
    """Unless the address is one that the proxy is not for."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(AssertionError, match="did not take"):
        lanes["direct"].ask()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert lanes["direct"].ask().finish_reason == "stop"


def test_address_and_organization_are_those_of_litellm(
    lanes: dict[str, Lane], stub: StubServer, monkeypatch: pytest.MonkeyPatch
):
    """From the variables that LiteLLM reads, in its order."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{stub.base_url}/")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_ORGANIZATION", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    for name in ("direct", "litellm"):
        lanes[name].send(request(extra_headers={"X-Trace": "1"}))
    one, other = (seen["headers"] for seen in stub.ledger()["requests"])
    told = ("Authorization", "OpenAI-Organization", "OpenAI-Project", "X-Trace", "Content-Type", "Accept")
    lower = [{name.lower(): value for name, value in headers.items()} for headers in (one, other)]
    assert [lower[0].get(name.lower()) for name in told] == [lower[1].get(name.lower()) for name in told]
    assert lower[0]["openai-organization"] == "org-1"


def test_a_server_of_ones_own(lanes: dict[str, Lane], stub: StubServer, monkeypatch: pytest.MonkeyPatch):
    """hosted_vllm/: its address and key come from its own variables."""
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", stub.base_url)
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "own-key")
    answers = [
        lanes[name].send(request(model="hosted_vllm/a/model", temperature=0.2)) for name in ("direct", "litellm")
    ]
    assert answers[0] == answers[1]
    one, other = stub.ledger()["requests"]
    assert one["body"] == other["body"]
    assert one["headers"]["Authorization"] == other["headers"]["Authorization"] == "Bearer own-key"


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)
PARTS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    st.sampled_from(["low", "high"]).map(
        lambda detail: {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": detail}}
    ),
    st.just({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
)
USERS = st.one_of(TEXTS, st.lists(PARTS, min_size=1, max_size=3)).map(lambda held: {"role": "user", "content": held})
OTHERS = st.one_of(
    TEXTS.map(lambda text: {"role": "system", "content": text}),
    TEXTS.map(lambda text: {"role": "assistant", "content": text}),
    TEXTS.map(lambda text: {"role": "assistant", "content": text, "tool_calls": [CALL]}),
    st.just({"role": "assistant", "tool_calls": [CALL]}),
    TEXTS.map(lambda text: {"role": "tool", "content": text, "tool_call_id": "call_1"}),
)
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA, "strict": True}}
]
SHARES = st.floats(0, 2, allow_nan=False)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), SHARES),
        **dict.fromkeys(("max_tokens", "max_completion_tokens", "seed"), st.integers(0, 10**6)),
        "n": st.just(1),
        "stop": st.one_of(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)),
        "user": TEXTS,
        "logprobs": st.booleans(),
        "logit_bias": st.just({"50256": -100}),
        "response_format": st.sampled_from(
            [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}]
        ),
        "extra_body": st.just({"top_k": 5, "guided": {"a": [1]}}),
    },
)
TOOL_PARAMS = st.sampled_from(
    [
        {},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "look"}}},
    ]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.one_of(USERS, OTHERS), max_size=3), last=USERS, params=PARAMS, tools=TOOL_PARAMS)
def test_both_lanes_send_the_same(lanes: dict[str, Lane], stub: StubServer, turns, last, params, tools):
    """Whatever the direct lane takes, it sends as LiteLLM would have."""
    stub.reset()
    messages = tuple(Message.model_validate(turn) for turn in (*turns, last))
    sampling = {"api_base": stub.base_url, **params, **tools}
    asked = CompletionRequest(model=MODEL, messages=messages, params=sampling)
    for name in ("direct", "litellm"):
        lanes[name].send(asked)
    direct, litellm = (seen["body"] for seen in stub.ledger()["requests"])
    assert direct == litellm


def test_hundreds_are_in_flight_at_once(lanes: dict[str, Lane], stub: StubServer):
    """One process, one session: nothing queues in front of the provider."""
    stub.script(delay_s=1.0)
    lane = lanes["direct"]
    calls = [lane.loop.submit(lane.provider.complete(request(api_base=lane.api_base), 20)) for _ in range(300)]
    assert {call.result().finish_reason for call in calls} == {"stop"}
    assert stub.peak() == 300
