"""One contract for streams through both lanes: the same text, tools and usage, and what LiteLLM keeps to itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kagura_tasks import errors
from kagura_tasks.schemas import Completion, Usage
from tests.support.lanes import CALL, MARKS, MODEL, Lane, failure, request
from tests.support.llm import LlmServer, StubServer
from tests.support.raw_server import RawServer
from tests.support.streams import (
    ANSWER,
    BEGIN,
    DONE,
    STOP,
    UNAVAILABLE,
    USED,
    chunk,
    framed,
    read,
    text_chunks,
)

pytestmark = MARKS


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


# What LiteLLM keeps to itself


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("anthropic/claude-sonnet-4-5", "/anthropic"),
        ("mistral/mistral-small-latest", "/mistral/v1"),
        ("gemini/gemini-2.5-flash", "/gemini/v1beta"),
        ("xai/grok-4.3", "/v1"),
    ],
)
def test_other_formats_stream_through_litellm(
    lanes: dict[str, Lane], llm: LlmServer, monkeypatch: pytest.MonkeyPatch, model: str, path: str
):
    """And say as clearly where they were cut."""
    for name in ("ANTHROPIC", "MISTRAL", "GEMINI", "XAI"):
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
