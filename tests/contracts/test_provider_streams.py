"""One contract for streams through both lanes: the same text, the same end, and no cut answer that looks whole."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from kagura_tasks import errors
from kagura_tasks.schemas import Completion, Usage
from tests.support.lanes import CALL, MARKS, MODEL, Lane, failure, request
from tests.support.llm import LlmServer, StubServer
from tests.support.raw_server import DONE, RawServer, chunk, event, framed, text_chunks
from tests.support.wait import until

pytestmark = MARKS

USED = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
STOP = chunk(reason="stop")
BEGIN = chunk({"role": "assistant", "content": ""})
UNAVAILABLE = (errors.ProviderUnavailable, MODEL, 0, 0.0)

#: A short answer. From the sixth event on it is whole: the reason for its end has come.
ANSWER = [BEGIN, *text_chunks("one", " two", " three"), STOP, chunk(choices=[], usage=USED), DONE]
WHOLE = 5


def read(lane: Lane, events: Sequence[bytes], framing: str = "close", **params: Any) -> Completion:
    """What comes out of a stream of these events."""
    with RawServer(framed(events, framing)) as server:
        return lane.stream(api_base=server.base_url, **params)


def broken(lane: Lane, events: Sequence[bytes], framing: str = "close") -> tuple[object, ...]:
    """The error that comes out of it."""
    with RawServer(framed(events, framing)) as server:
        return failure(lane, streamed=True, api_base=server.base_url)


@pytest.mark.parametrize("framing", ["close", "length", "chunked"])
def test_the_text_comes_piece_by_piece(lane: Lane, framing: str):
    """In the provider's pieces, with nothing in between and nothing for what is empty."""
    pieces: list[str] = []
    completion = read(lane, [*ANSWER[:2], *text_chunks("", ""), *ANSWER[2:]], framing, hand_over=pieces.append)
    assert pieces == ["one", " two", " three"]
    expected = Usage(**USED, cost_usd=completion.usage.cost_usd)
    assert completion == Completion(text="one two three", model=MODEL, finish_reason="stop", usage=expected)
    assert completion.usage.cost_usd == pytest.approx(0.00021)


def test_a_piece_is_handed_over_before_the_next_is_written(lane: Lane, stub: StubServer):
    """Not when all has come: the provider is still writing."""
    stub.script(text="one two three", chunks=3, chunk_delay_s=0.2)
    in_flight: list[int] = []
    lane.stream(hand_over=lambda _: in_flight.append(stub.ledger()["in_flight"]))
    assert in_flight[:2] == [1, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_any_text_survives_any_cut_of_its_bytes(lane: Lane, size: int):
    """Emoji, CJK and accents, in whatever parts they travel."""
    text = "日本語 🎴👩‍👩‍👧 é e\u0301 \u2028 \x00 \n\r\n data: [DONE] \\ud83d"
    raw = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)
    body = b"".join([f"data: {raw}\n\n".encode(), *text_chunks(text), STOP, DONE])
    parts = framed([body[start : start + size] for start in range(0, len(body), size)], "chunked")
    with RawServer(parts) as server:
        assert lane.stream(api_base=server.base_url).text == text * 2


def test_a_character_cut_in_two_is_put_together(lane: Lane):
    """Some servers cut between the escapes of one character; half a one becomes the sign for that."""
    pieces: list[str] = []
    halves = text_chunks("a\ud83d", "\ude00b", "\ud83d", "c\ude00", "d\ud83d")
    assert read(lane, [*halves, STOP], hand_over=pieces.append).text == "a😀b\ufffdc\ufffdd\ufffd"
    assert pieces[:2] == ["a", "😀b"]


def test_equal_pieces_are_no_error(lane: Lane, stub: StubServer):
    """A model may repeat itself."""
    stub.script(text="same " * 500, chunks=500)
    assert lane.stream().text == "same " * 500


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls", "function_call", "eos", "SAFETY"])
def test_the_reason_for_the_end_is_that_of_a_plain_answer(lane: Lane, stub: StubServer, reason: str):
    """Also where it is another provider's word."""
    stub.script(finish_reason=reason)
    plain = lane.ask()
    assert lane.stream() == plain


ARGUMENTS = CALL["function"]["arguments"]
OPENING = {**CALL, "index": 0, "function": {**CALL["function"], "arguments": ""}}
PIECES = [{"index": 0, "function": {"arguments": ARGUMENTS[start : start + 5]}} for start in range(0, 25, 5)]


@pytest.mark.parametrize(
    "deltas",
    [
        [OPENING, *PIECES],
        [{**CALL, "index": 0}],
        [{**OPENING, "function": {"name": "look"}}, *PIECES],
        [OPENING, *({**piece, "id": "call_1", "type": "function"} for piece in PIECES)],
        [{name: value for name, value in OPENING.items() if name != "type"}, *PIECES],
    ],
    ids=["OpenAI's", "whole", "no arguments at first", "its id each time", "no type"],
)
@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
def test_calls_of_tools_are_put_together(lane: Lane, deltas: list[dict[str, Any]], reason: str):
    """Out of whatever pieces, they are those of a plain answer."""
    events = [chunk({"content": None, "tool_calls": [delta]}) for delta in deltas]
    completion = read(lane, [BEGIN, *events, chunk(reason=reason), DONE])
    assert (completion.text, completion.tool_calls, completion.finish_reason) == ("", (CALL,), "tool_calls")


def test_calls_of_several_tools_are_kept_apart(lane: Lane):
    """By their index, also where their pieces alternate, and beside text."""
    other = {"id": "call_2", "type": "function", "function": {"name": "listen", "arguments": "{}"}}
    opening = {**other, "index": 1, "function": {"name": "listen", "arguments": "{"}}
    rest = {"index": 1, "function": {"arguments": "}"}}
    deltas = [[OPENING, opening], PIECES[:2], [rest], *([piece] for piece in PIECES[2:])]
    events = [chunk({"tool_calls": delta}) for delta in deltas]
    completion = read(lane, [*text_chunks("Let me see."), *events, chunk(reason="tool_calls")])
    assert (completion.text, completion.tool_calls) == ("Let me see.", (CALL, other))


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": USED},
        {"usage": {**USED, "prompt_tokens_details": {"cached_tokens": 600, "audio_tokens": 0}}},
        {"usage": {**USED, "completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 0}}},
        {"usage": USED, "model": "gpt-4o-2024-08-06"},
        {"usage": USED, "model": "none-that-has-a-price"},
        {"usage": USED, "service_tier": "priority"},
    ],
    ids=str,
)
def test_usage_and_price_are_those_of_a_plain_answer(lane: Lane, stub: StubServer, fields: dict[str, Any]):
    """In a chunk without choices, or in the last one that has some."""
    stub.script(fields=fields)
    plain = lane.ask().usage
    about = {name: value for name, value in fields.items() if name != "usage"}
    text = chunk({"content": "one"}, **about)
    for ends in ([chunk(reason="stop", **about), chunk(choices=[], **fields)], [chunk(reason="stop", **fields)]):
        used = read(lane, [text, *ends, DONE]).usage
        assert used == plain.model_copy(update={"cost_usd": pytest.approx(plain.cost_usd)})


@pytest.mark.parametrize("model", [MODEL, "openai/none-that-has-a-price"])
def test_a_usage_that_is_not_told_is_counted(lane: Lane, model: str):
    """Every call has one, and a price if the model has."""
    completion = read(lane, [*text_chunks("one", " two", " three"), STOP, DONE], model=model)
    counted = lane.loop.run(lane.provider.count(request(model=model), "one two three"))
    assert completion.usage == counted
    assert (counted.prompt_tokens > 2, counted.completion_tokens) == (True, 3)
    assert (counted.cost_usd is None) == (model != MODEL)


def test_thoughts_are_no_text(lane: Lane):
    """They are signs of life: what they say is not the answer."""
    thoughts = [chunk({name: "Hm."}) for name in ("reasoning_content", "reasoning")]
    assert read(lane, [BEGIN, *thoughts, *text_chunks("So."), STOP]).text == "So."


def test_only_the_first_answer_is_text(lane: Lane):
    """A server that gives more than one was not asked to."""
    other = chunk(choices=[{"index": 1, "delta": {"content": "other"}, "finish_reason": None}])
    assert read(lane, [*text_chunks("one"), other, STOP]).text == "one"


@pytest.mark.parametrize("framing", ["close", "length", "chunked"])
def test_a_cut_answer_never_looks_whole(lane: Lane, framing: str):
    """Wherever the connection ends, and however: whole is what has the reason for its end."""
    for kept in range(len(ANSWER)):
        sent = framed(ANSWER, framing)[: kept + 1]
        with RawServer(sent) as server:
            if kept < WHOLE:
                assert failure(lane, streamed=True, api_base=server.base_url) == UNAVAILABLE
            else:
                assert lane.stream(api_base=server.base_url).text == "one two three"


def test_an_end_without_a_reason_is_a_cut(lane: Lane):
    """Although the server says that it is done; an empty reason is none."""
    for last in ([], [DONE], [chunk(reason=""), DONE]):
        assert broken(lane, [*ANSWER[:4], *last]) == UNAVAILABLE


def test_a_stalled_answer_is_given_up(lane: Lane):
    """After each event but the last ones: what comes after the reason for the end is not worth failing for."""
    read(lane, ANSWER)  # what the first call needs is loaded now, not in the middle of a short silence
    servers = [RawServer(framed(ANSWER)[: kept + 1], held=True) for kept in range(len(ANSWER))]

    async def one(server: RawServer) -> object:
        try:
            return (await lane.streaming(0.5, api_base=server.base_url)).text
        except errors.ProviderError as error:
            return type(error)

    async def all_of_them() -> list[object]:
        return await asyncio.gather(*map(one, servers))

    for server in servers:
        server.__enter__()
    ends = lane.loop.run(all_of_them())
    assert ends == [errors.ProviderTimeout] * WHOLE + ["one two three"] * (len(ANSWER) - WHOLE)
    for server in servers:
        assert server.left.wait(10), "a closed connection"
        server.__exit__(None, None, None)


def test_the_time_is_that_of_a_silence(lane: Lane, stub: StubServer):
    """An answer may take as long as it likes, if something comes."""
    stub.script(chunks=5, chunk_delay_s=0.5)
    started = time.monotonic()
    assert lane.stream(timeout_s=1.5).finish_reason == "stop"
    assert time.monotonic() - started > 2


def test_comments_are_a_silence(lane: Lane):
    """A gateway that only says that it is there does not answer."""
    with RawServer([*framed(ANSWER[:2]), b": there\n\n"], held=True) as server:
        assert failure(lane, streamed=True, timeout_s=0.3, api_base=server.base_url)[0] is errors.ProviderTimeout
    assert read(lane, [b": there\n\n", b"event: chunk\nid: 1\nretry: 5\n" + ANSWER[1], STOP]).text == "one"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"message": "canary"}, UNAVAILABLE),
        ("canary", UNAVAILABLE),
        ({"message": "canary", "type": "server_error", "code": None}, UNAVAILABLE),
        ({"message": "canary", "code": 429}, (errors.RateLimited, MODEL, 429, 0.0)),
        ({"message": "canary", "code": "503"}, (errors.ProviderUnavailable, MODEL, 503, 0.0)),
        ({"message": "canary", "code": "rate_limit_exceeded"}, (errors.RateLimited, MODEL, 0, 0.0)),
        ({"message": "canary", "code": 400}, (errors.RequestRefused, MODEL, 400)),
        ({"message": "canary", "code": "context_length_exceeded"}, (errors.ContextTooLong, MODEL, 0)),
        ({"message": "canary", "code": "content_filter"}, (errors.ContentRefused, MODEL, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 3])
def test_an_error_in_a_stream_is_one(lane: Lane, said: object, expected: tuple[object, ...], before: int):
    """At its beginning or in its middle; where it does not say that no try can help, another may."""
    assert broken(lane, [*ANSWER[:before], event({"error": said}), *ANSWER[before:]]) == expected


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {canary\n\n",
        b"data: canary\n\n",
        b'data: {"choices": "\xff"}\n\n',
        chunk(reason="error"),
    ],
    ids=["half an object", "no JSON", "no UTF-8", "a failure as the reason"],
)
def test_what_cannot_be_read_may_be_tried_again(lane: Lane, garbage: bytes):
    """A stream is worth nothing without a part of it."""
    assert broken(lane, [*ANSWER[:2], garbage, *ANSWER[2:]]) == UNAVAILABLE


@pytest.mark.parametrize(
    "garbage",
    [
        [],
        {"choices": {"a": 1}},
        {"choices": [None]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"tool_calls": "x"}}]},
        {"choices": [{"delta": {"tool_calls": ["x"]}}]},
        {"choices": [{"delta": {}, "finish_reason": 5}]},
    ],
    ids=str,
)
def test_another_form_is_unreadable(lanes: dict[str, Lane], garbage: object):
    """JSON that is no chunk. (LiteLLM makes something or other of it.)"""
    assert broken(lanes["direct"], [*ANSWER[:2], event(garbage), *ANSWER[2:]]) == UNAVAILABLE


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_refused_stream_is_a_refused_call(lane: Lane, stub: StubServer, status: int):
    """With the wait that the provider asks for."""
    stub.script(status=status, headers={"Retry-After": "2"})
    seen = failure(lane)
    assert failure(lane, streamed=True) == seen
    assert (2.0 in seen) == (status in (429, 500, 503))


def test_who_sends_the_whole_answer_is_heard(lanes: dict[str, Lane], stub: StubServer):
    """A server that cannot stream: its text comes in one piece. (LiteLLM finds nothing in it, which is a cut.)"""
    pieces: list[str] = []
    whole = {"choices": [{"message": {"role": "assistant", "content": "All at once."}, "finish_reason": "stop"}]}
    stub.script(body=json.dumps({**whole, "usage": USED}))
    assert lanes["direct"].stream(hand_over=pieces.append) == lanes["direct"].ask()
    assert pieces == ["All at once."]
    assert failure(lanes["litellm"], streamed=True) == UNAVAILABLE


def test_both_lanes_ask_the_same(lanes: dict[str, Lane], stub: StubServer):
    """For a stream that ends with its usage."""
    for lane in ("direct", "litellm"):
        lanes[lane].stream(temperature=0.5, stop=["x"])
    direct, litellm = (seen["body"] for seen in stub.ledger()["requests"])
    assert direct == litellm
    assert (direct["stream"], direct["stream_options"]) == (True, {"include_usage": True})


def test_nobody_there_may_be_tried_again(lane: Lane):
    """A refused connection, and one that ends without a word."""
    with RawServer([]) as server:
        assert failure(lane, streamed=True, api_base=server.base_url) == UNAVAILABLE
    assert failure(lane, streamed=True, api_base=server.base_url) == UNAVAILABLE


def closed_within_a_second(stub: StubServer, since: float) -> bool:
    """The provider saw it: its clock is ours."""
    until(lambda: stub.ledger()["in_flight"] == 0, 10, "a closed connection")
    seen = stub.ledger()["requests"][0]
    return seen["left"] and seen["ended_at"] - since < 1


@pytest.mark.parametrize("writing", [True, False], ids=["in the middle", "before the first piece"])
def test_cancelling_closes_the_connection(lane: Lane, stub: StubServer, writing: bool):
    """At once, and the provider stops writing."""
    stub.script(chunks=100, delay_s=0 if writing else 30, chunk_delay_s=0.3, text="x" * 100)
    pieces: list[str] = []
    call = lane.loop.submit(lane.streaming(30, hand_over=pieces.append))
    until(lambda: pieces if writing else stub.ledger()["in_flight"], 15, "a running stream")
    cancelled_at = time.monotonic()
    call.cancel()
    assert closed_within_a_second(stub, cancelled_at)


@pytest.mark.parametrize("raised", [ValueError, TimeoutError, OSError, aiohttp.ClientError, errors.TaskCancelled])
def test_an_error_of_the_receiver_ends_the_call(lane: Lane, stub: StubServer, raised: type[Exception]):
    """It comes out as it is, and the connection is closed."""
    stub.script(chunks=100, chunk_delay_s=0.2, text="x" * 100)
    mine, raised_at = raised("mine"), [0.0]

    def hand_over(_: str) -> None:
        raised_at[0] = time.monotonic()
        raise mine

    async def call() -> bool:
        with pytest.raises(raised) as caught:
            await lane.streaming(hand_over=hand_over)
        return caught.value is mine

    assert lane.loop.run(call())
    assert closed_within_a_second(stub, raised_at[0])


def test_others_get_their_turn(lane: Lane):
    """However much has come already, a worker's other calls go on."""
    turns, seen = [0], [0]

    async def tick() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    def hand_over(_: str) -> None:
        seen.append(turns[0])

    async def both() -> None:
        ticking = asyncio.create_task(tick())
        with RawServer(framed([b"".join(text_chunks(*"x" * 600)) + STOP])) as server:
            await lane.streaming(api_base=server.base_url, hand_over=hand_over)
        ticking.cancel()

    lane.loop.run(both())
    most = max(seen.count(turn) for turn in set(seen))
    assert most <= 64


def test_an_endless_event_is_given_up(lanes: dict[str, Lane], monkeypatch: pytest.MonkeyPatch):
    """It does not fill the worker's memory."""
    monkeypatch.setattr("kagura_tasks.providers.direct._MAX_EVENT_BYTES", 2**20)
    with RawServer([*framed(ANSWER[:2]), b"data: " + b"x" * 2**21], held=True) as server:
        with pytest.raises(errors.RequestRefused, match="larger than 1 MB"):
            lanes["direct"].stream(api_base=server.base_url)
        assert server.left.wait(10)


def test_an_endless_text_is_given_up(lane: Lane, monkeypatch: pytest.MonkeyPatch):
    """Nor does a text."""
    monkeypatch.setattr("kagura_tasks.providers.written.MAX_CHARACTERS", 2**20)
    with RawServer([*framed(text_chunks("x" * 2**20, "x"))], held=True) as server:
        with pytest.raises(errors.RequestRefused, match="larger than 1 MB"):
            lane.stream(api_base=server.base_url)
        assert server.left.wait(10)


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "malformed"])
def test_another_servers_faults(lane: Lane, llm: LlmServer, fault: str):
    """The same from a server that we did not write."""
    llm.reply("One two three four five.")
    getattr(llm, fault)(after_chunks=2, times=None)
    assert failure(lane, streamed=True, api_base=llm.base_url) == UNAVAILABLE


# What LiteLLM keeps to itself


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("anthropic/claude-sonnet-4-5", "/anthropic"),
        ("mistral/mistral-small-latest", "/mistral/v1"),
        ("gemini/gemini-2.5-flash", "/gemini/v1beta"),
        ("groq/openai/gpt-oss-20b", "/v1"),
    ],
)
def test_other_formats_stream_through_litellm(
    lanes: dict[str, Lane], llm: LlmServer, monkeypatch: pytest.MonkeyPatch, model: str, path: str
):
    """And say as clearly where they were cut."""
    for name in ("ANTHROPIC", "MISTRAL", "GEMINI", "GROQ"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-canary")
    llm.reply("One two three four five.")
    base = f"{llm.url}{path}"
    completion = lanes["auto"].stream(model=model, api_base=base)
    assert (completion.text, completion.finish_reason) == ("One two three four five.", "stop")
    assert completion.usage.prompt_tokens
    assert completion.usage.cost_usd
    llm.truncate(after_chunks=2)
    assert failure(lanes["auto"], streamed=True, model=model, api_base=base) == (
        errors.ProviderUnavailable,
        model,
        0,
        0.0,
    )


def test_litellm_tells_a_cut_stream_from_a_whole_one(lanes: dict[str, Lane]):
    """By an attribute that is not documented: everything else says "stop". If this fails, look for another sign."""
    import litellm

    async def reasons(events: list[bytes]) -> tuple[object, object]:
        with RawServer(framed(events)) as server:
            messages = [{"role": "user", "content": "canary"}]
            stream: Any = await litellm.acompletion(
                model=MODEL, messages=messages, stream=True, api_base=server.base_url
            )
            chunks = [one async for one in stream]
        return chunks[-1].choices[0].finish_reason, stream.received_finish_reason

    loop = lanes["litellm"].loop
    assert loop.run(reasons(ANSWER[:5])) == ("stop", "stop")
    assert loop.run(reasons(ANSWER[:4])) == ("stop", None)


@pytest.mark.parametrize("model", ["groq/llama-3.1-8b-instant", "cohere/command-r", "replicate/llama-2", "none/such"])
def test_counting_needs_no_network(lane: Lane, stub: StubServer, monkeypatch: pytest.MonkeyPatch, model: str):
    """No tokenizer is fetched, and no image is."""

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"somebody looks for {args}")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    image = {"type": "image_url", "image_url": {"url": f"{stub.url}/image.png"}}
    turn = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    asked = request(model=model).model_copy(update={"messages": (request().messages[0].model_validate(turn),)})
    counted = lane.loop.run(lane.provider.count(asked, "It is a tree."))
    assert counted.prompt_tokens > 5
    assert counted.completion_tokens == 5
