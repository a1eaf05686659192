"""One contract for both lanes to a model: the same answers and the same errors, over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from kagura_tasks import errors
from tests.support.lanes import CALL, MARKS, MODEL, Lane, failure, request
from tests.support.llm import StubServer
from tests.support.wait import until

pytestmark = MARKS

USED = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


def answer(message: object, reason: str | None = "stop") -> dict[str, Any]:
    """The fields of a completion with this message."""
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def error(**fields: object) -> str:
    return json.dumps({"error": {"message": "canary words of the provider", **fields}})


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
        ({"Retry-After": "Wed, 21 Oct 2037 07:28:00 GMT", "Date": "Wed, 21 Oct 2037 07:27:53 GMT"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 1998 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "nan"}, 0.0),
        ({"Retry-After": "1e999"}, 86_400.0),
        ({}, 0.0),
    ],
    ids=str,
)
def test_the_wait_is_the_providers(lane: Lane, stub: StubServer, headers: dict[str, str], wait_s: float):
    """In seconds, in milliseconds, or until a date by the provider's clock."""
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


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"canary\r\n\r\n",
        OK,
        OK + b'Content-Length: 1000\r\n\r\n{"choices": [',
        OK + b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"choic',
        OK + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\ncanary",
    ],
    ids=["nothing", "no HTTP", "half a head", "half a body", "half a chunk", "no gzip"],
)
def test_a_broken_reply_may_be_tried_again(lane: Lane, sent: bytes):
    """Cut in the middle, or no reply at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(sent)

        threading.Thread(target=reply_once, daemon=True).start()
        base = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        assert failure(lane, api_base=base) == (errors.ProviderUnavailable, MODEL, 0, 0.0)


def test_a_call_ends_at_its_timeout(lane: Lane, stub: StubServer):
    """Soon after it, and the provider sees the connection close."""
    stub.script(delay_s=30)
    started = time.monotonic()
    assert failure(lane, timeout_s=0.3) == (errors.ProviderTimeout, MODEL, 0, 0.0)
    assert time.monotonic() - started < 15  # half of what the provider takes
    until(lambda: stub.ledger()["in_flight"] == 0, 10, "a closed connection")


def test_cancelling_closes_the_connection(lane: Lane, stub: StubServer):
    """At once, and the provider stops writing."""
    stub.script(delay_s=30)
    call = lane.loop.submit(lane.provider.complete(request(api_base=lane.api_base), 30))
    until(lambda: stub.ledger()["in_flight"] == 1, 15, "a call in flight")
    call.cancel()
    until(lambda: stub.ledger()["in_flight"] == 0, 10, "a closed connection")
    assert stub.ledger()["requests"][0]["left"]


def test_an_endless_answer_is_given_up(lanes: dict[str, Lane], stub: StubServer, monkeypatch: pytest.MonkeyPatch):
    """It does not fill the worker's memory."""
    monkeypatch.setattr("kagura_tasks.providers.direct._MAX_ANSWER_BYTES", 2**20)
    stub.script(text="x" * 2**21)
    with pytest.raises(errors.RequestRefused, match="larger than 1 MB"):
        lanes["direct"].ask()
