"""When are two requests the same? A table: these differ, those mean the same. Both ways to a key must agree."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.cache.key import KEY_VERSION, NOT_IN_KEY, cache_key
from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.errors import InvalidRequest
from kagura_tasks.schemas import CompletionRequest, Message, Priority

MODEL = "openai/gpt-4o-mini"
PROMPT = "Summarise café."
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "Answer", "schema": {"type": "object", "properties": {}}}}

Prompt = str | list[Any]


def turns(*contents: object) -> list[dict[str, object]]:
    """The user's messages."""
    return [{"role": "user", "content": content} for content in contents]


def key(prompt: Prompt = PROMPT, model: str = MODEL, tenant: str = "default", **params: Any) -> str:
    """The key of a request, made in both ways."""
    by_cache = LLMCache(tenant=tenant).key_for(prompt, model, **params)
    messages = turns(prompt) if isinstance(prompt, str) else prompt
    fields = {"model": model, "messages": messages, "tenant": tenant, "params": params}
    assert cache_key(CompletionRequest.model_validate(fields)) == by_cache
    return by_cache


def tool(**changes: Any) -> list[dict[str, Any]]:
    """The tool, changed."""
    return [{**TOOL, "function": {**TOOL["function"], **changes}}]


#: Requests that deserve answers of their own: each differs from the plain one, and from all others, in one field.
DIFFERENT: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompt": {"prompt": "Summarise tea."},
    "prompt's white space": {"prompt": PROMPT + " "},
    "prompt's case": {"prompt": PROMPT.upper()},
    "role": {"prompt": [{"role": "system", "content": PROMPT}]},
    "one message more": {"prompt": turns(PROMPT, PROMPT)},
    "message order": {"prompt": turns("Summarise tea.", PROMPT)},
    "message order, the other way": {"prompt": turns(PROMPT, "Summarise tea.")},
    "message's name": {"prompt": [{"role": "user", "content": PROMPT, "name": "ada"}]},
    "content parts": {"prompt": turns([{"type": "text", "text": PROMPT}])},
    "an image": {"prompt": turns([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])},
    "another image": {"prompt": turns([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AQ=="}}])},
    "tool call's answer": {"prompt": [{"role": "tool", "content": PROMPT, "tool_call_id": "call_1"}]},
    "model": {"model": "openai/gpt-4o"},
    "provider": {"model": "azure/gpt-4o-mini"},
    "tenant": {"tenant": "acme"},
    "api_base": {"api_base": "http://127.0.0.1:8000/v1"},
    "api_version": {"api_version": "2026-01-01"},
    "temperature": {"temperature": 0.5},
    "temperature that is nearly the same": {"temperature": 0.5000001},
    "zero is not absent": {"temperature": 0},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 40},
    "seed": {"seed": 1},
    "max_tokens": {"max_tokens": 1},
    "max_completion_tokens": {"max_completion_tokens": 1},
    "stop": {"stop": ["\n"]},
    "stop order": {"stop": ["\n", "."]},
    "stop order, the other way": {"stop": [".", "\n"]},
    "presence_penalty": {"presence_penalty": 1},
    "frequency_penalty": {"frequency_penalty": 1},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 1},
    "user": {"user": "ada"},
    "reasoning_effort": {"reasoning_effort": "low"},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "service_tier": {"service_tier": "flex"},
    "tools": {"tools": tool()},
    "tool's name": {"tools": tool(name="search")},
    "tool's description": {"tools": tool(description="Look it up.")},
    "tool's schema": {"tools": tool(parameters={"type": "object", "properties": {"password": {"type": "string"}}})},
    "tool's schema, other property": {
        "tools": tool(parameters={"type": "object", "properties": {"token": {"type": "string"}}})
    },
    "two tools": {"tools": tool() + tool(name="search")},
    "two tools, the other way": {"tools": tool(name="search") + tool()},
    "tool_choice": {"tool_choice": "required"},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "response_format": {"response_format": {"type": "json_object"}},
    "response_format's schema": {"response_format": SCHEMA},
    "extra_body": {"extra_body": {"guided_regex": "[0-9]+"}},
    "extra_body's value": {"extra_body": {"guided_regex": "[a-z]+"}},
    "extra_headers": {"extra_headers": {"anthropic-beta": "context-1m"}},
    "extra_headers' value": {"extra_headers": {"anthropic-beta": "context-2m"}},
    "a parameter that nobody here knows": {"brand_new": "yes"},
    "true is not 1": {"brand_new": True},
    "1 is not true": {"brand_new": 1},
    "1 is not the text 1": {"brand_new": "1"},
    "an empty list is not absent": {"brand_new": []},
    "an empty object is not an empty list": {"brand_new": {}},
}

#: Full of fields, for what does not matter.
FULL: dict[str, Any] = {
    "temperature": 0,
    "top_p": 1,
    "stop": ["\n", "."],
    "tools": tool(),
    "response_format": SCHEMA,
    "extra_body": {"guided_regex": "[0-9]+", "top_k": 5},
    "extra_headers": {"anthropic-beta": "context-1m", "x-route": "a"},
}


def backwards(value: Any) -> Any:
    """The same JSON with all its objects' keys in the opposite order."""
    if isinstance(value, Mapping):
        return {name: backwards(value[name]) for name in reversed(list(value))}
    return [backwards(item) for item in value] if isinstance(value, list) else value


#: Requests that all mean FULL.
SAME: dict[str, dict[str, Any]] = {
    "as it is": FULL,
    "keywords in the opposite order": dict(reversed(FULL.items())),
    "all objects in the opposite order": backwards(FULL),
    "0 as a float": {**FULL, "temperature": 0.0},
    "0 below zero": {**FULL, "temperature": -0.0},
    "1 as a float": {**FULL, "top_p": 1.0},
    "a float deep inside": {**FULL, "extra_body": {"guided_regex": "[0-9]+", "top_k": 5.0}},
    "decomposed letters": {**FULL, "prompt": unicodedata.normalize("NFD", PROMPT)},
    "the prompt as a message": {**FULL, "prompt": turns(PROMPT)},
    "the message's fields in the other order": {**FULL, "prompt": [{"content": PROMPT, "role": "user"}]},
    "the prompt as a Message": {**FULL, "prompt": [Message(role="user", content=PROMPT)]},
    "a parameter that is None": {**FULL, "seed": None},
    "a timeout": {**FULL, "timeout": 5},
    "another timeout": {**FULL, "request_timeout": 600},
    "notes for the log": {**FULL, "metadata": {"trace": "1"}},
    "header names in capitals": {**FULL, "extra_headers": {"Anthropic-Beta": "context-1m", "X-ROUTE": "a"}},
    "headers in the other order": {**FULL, "extra_headers": backwards(FULL["extra_headers"])},
    "a secret": {**FULL, "api_key": "sk-1"},
    "another secret": {**FULL, "api_key": "sk-2"},
    "a secret header": {**FULL, "extra_headers": {**FULL["extra_headers"], "Authorization": "Bearer sk-3"}},
    "a secret in the body": {**FULL, "extra_body": {**FULL["extra_body"], "api_key": "sk-4"}},
}


def test_requests_that_differ_in_one_field_have_keys_of_their_own():
    """Every field that can change the answer is in the key, also one that nobody here knows."""
    names: dict[str, list[str]] = {}
    for name, request in DIFFERENT.items():
        names.setdefault(key(**request), []).append(name)
    assert [same for same in names.values() if len(same) > 1] == []
    assert len(names) == len(DIFFERENT) >= 40


def test_requests_that_mean_the_same_have_one_key():
    """Order, spelling of numbers and letters, delivery and secrets do not matter."""
    keys = {name: key(**request) for name, request in SAME.items()}
    assert {name for name, one in keys.items() if one != keys["as it is"]} == set()
    assert len(keys) >= 20


@pytest.mark.parametrize(
    "delivery",
    [
        {"timeout_s": 5.0},
        {"priority": Priority.BATCH},
        {"tags": ("a", "b")},
        {"cache_ttl_s": 5},
        {"use_cache": False},
    ],
    ids=lambda delivery: next(iter(delivery)),
)
def test_how_an_answer_is_delivered_is_not_in_the_key(delivery: dict[str, Any]):
    """Deadlines, priority, tags and the answer's own TTL say nothing about what it is."""
    messages = (Message(role="user", content=PROMPT),)
    plain = CompletionRequest(model=MODEL, messages=messages)
    assert cache_key(plain.model_copy(update=delivery)) == cache_key(plain)


def test_the_key_of_a_cache_belongs_to_its_tenant():
    """`key_for` takes the cache's tenant, unless the request names one."""
    ours = LLMCache(tenant="acme")
    assert ours.key_for(PROMPT, MODEL) == LLMCache().key_for(PROMPT, MODEL, tenant="acme") == key(tenant="acme")


def test_a_key_says_version_and_model_and_nothing_else():
    """The form is v<version>:<model>:<sha-256>: enough to invalidate by model; the rest is a hash."""
    assert re.fullmatch(rf"v{KEY_VERSION}:openai/gpt-4o-mini:[0-9a-f]{{64}}", key(**FULL))


def test_a_known_requests_key_never_changes_by_accident():
    """Where this fails, all remembered answers are lost at the next release: if that is meant, raise KEY_VERSION."""
    assert KEY_VERSION == 1
    assert key(**FULL) == "v1:openai/gpt-4o-mini:7fd922299020cee88ea12eba18de294a3005af89bf39f01a3cfa28b4a4df16e0"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1, 2}, b"bytes", object()], ids=["nan", "inf", "set", "bytes", "object"]
)
def test_what_has_no_json_form_has_no_key(value: object):
    """A value that cannot be sent is refused, and the error does not show it."""
    with pytest.raises(InvalidRequest) as caught:
        LLMCache().key_for(PROMPT, MODEL, brand_new=value)
    assert repr(value) not in str(caught.value)


def test_the_key_is_the_same_in_every_process():
    """Python's hash seed, which orders sets and differs in every process, has no part in it."""
    code = (
        "from kagura_tasks.cache.llm_cache import LLMCache\n"
        f"print(LLMCache().key_for({PROMPT!r}, {MODEL!r}, **{FULL!r}))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "42")
    }
    assert keys == {key(**FULL)}


TEXT = st.text(st.characters(codec="utf-8", categories=["L", "M", "N", "P", "Z", "S"]), max_size=20)
NAMES = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=8).map("x_".__add__)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(NAMES, JSON, max_size=5)
SECRETS = st.sampled_from(
    [
        *("api_key", "API-Key", "x-goog-api-key", "Ocp-Apim-Subscription-Key", "Authorization", "Proxy-Authorization"),
        *("x-auth", "Helicone-Auth", "Cookie", "password", "client_secret", "vertex_credentials", "azure_ad_token"),
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    ]
)


@given(prompt=TEXT, params=PARAMS, seed=st.integers())
def test_the_order_of_keys_never_matters(prompt: str, params: dict[str, Any], seed: int):
    """Any JSON, its objects' keys shuffled at all depths: the same key."""
    shuffle = random.Random(seed).sample

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shuffled(value[name]) for name in shuffle(list(value), len(value))}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    assert key(prompt, **shuffled(params)) == key(prompt, **params)


@given(number=st.integers(-(2**53), 2**53))
def test_a_whole_number_is_the_same_as_a_float(number: int):
    """JSON knows one kind of number; so does the key."""
    assert key(x=number, y=[{"z": number}]) == key(x=float(number), y=[{"z": float(number)}])


@given(text=TEXT)
def test_letters_that_look_the_same_are_the_same(text: str):
    """Composed and decomposed spelling of a text are one prompt, in messages and in parameters."""
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert key(composed, x=[composed]) == key(decomposed, x=[decomposed])


@given(name=SECRETS, secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12), params=PARAMS)
def test_a_secret_changes_no_key_and_is_in_none(name: str, secret: str, params: dict[str, Any]):
    """Whoever rotates a key keeps the answers, and nobody reads the key out of Redis."""
    headers, body = {"x-route": "a"}, {"top_k": 5}
    with_secret = key(
        **params, **{name: secret}, extra_headers={**headers, name: secret}, extra_body={**body, name: secret}
    )
    assert with_secret == key(**params, extra_headers=headers, extra_body=body)
    assert secret not in with_secret


@given(params=PARAMS, ignored=st.dictionaries(st.sampled_from(sorted(NOT_IN_KEY)), JSON))
def test_what_is_ignored_is_ignored_whatever_it_is(params: dict[str, Any], ignored: dict[str, Any]):
    """The short list of parameters that say how an answer is fetched."""
    assert key(**params, **ignored) == key(**params)


@given(first=PARAMS, second=PARAMS)
def test_equal_keys_mean_equal_requests(first: dict[str, Any], second: dict[str, Any]):
    """Two requests share a key only if they are equal once None, spelling and number types are set aside."""

    def meaning(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: meaning(item) for name, item in value.items()}
        if isinstance(value, list):
            return [meaning(item) for item in value]
        if isinstance(value, str):
            return unicodedata.normalize("NFC", value)
        return (type(value) is bool, value)

    def given_params(params: dict[str, Any]) -> Any:
        return meaning({name: value for name, value in params.items() if value is not None})

    assert (key(**first) == key(**second)) == (given_params(first) == given_params(second))
