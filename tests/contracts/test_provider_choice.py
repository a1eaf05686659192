"""Which lane makes a call, where it goes, and what is sent: the direct lane sends what LiteLLM would have sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kagura_tasks import errors
from kagura_tasks.schemas import CompletionRequest, Message
from tests.support.lanes import CALL, KEY, MARKS, MODEL, Lane, request
from tests.support.llm import StubServer
from tests.support.wait import until

pytestmark = MARKS


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


def test_a_change_of_the_environment_is_noticed(
    lanes: dict[str, Lane], stub: StubServer, monkeypatch: pytest.MonkeyPatch
):
    """Within a second or so, by a lane that made calls before."""

    def key_sent() -> str:
        lanes["direct"].ask()
        return stub.ledger()["requests"][-1]["headers"]["Authorization"]

    assert key_sent() == f"Bearer {KEY}"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    until(lambda: key_sent() == "Bearer sk-another", what="the other key")


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
        ("xai/grok-3", {}),
        ("openrouter/openai/gpt-4o", {}),
        ("perplexity/sonar", {}),
        ("fireworks_ai/llama-v3p1-8b-instruct", {}),
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


def test_a_call_of_gemini_does_not_set_litellm_up(lanes: dict[str, Lane], monkeypatch: pytest.MonkeyPatch):
    """LiteLLM leaves the name of a cache that nobody uses among its callbacks; that is no setting."""
    import litellm

    for name in ("success_callback", "input_callback", "_async_success_callback"):
        monkeypatch.setattr(litellm, name, ["cache"])
    assert lanes["direct"].ask().finish_reason == "stop"


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
    """The direct lane speaks to the provider and to nobody else."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(AssertionError, match="did not take"):
        lanes["direct"].ask()


def test_an_address_that_the_proxy_is_not_for_is_called_directly(
    lanes: dict[str, Lane], monkeypatch: pytest.MonkeyPatch
):
    """As LiteLLM would."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
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
