"""One contract for how streams end in both lanes: cut, stalled, failed, cancelled; a part is never the whole."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from kagura_tasks import errors
from tests.support.lanes import MARKS, MODEL, Lane, failure
from tests.support.llm import LlmServer, StubServer
from tests.support.raw_server import RawServer
from tests.support.streams import (
    ANSWER,
    DONE,
    STOP,
    UNAVAILABLE,
    WHOLE,
    broken,
    chunk,
    event,
    framed,
    read,
    text_chunks,
)
from tests.support.wait import until

pytestmark = MARKS


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
            return (await lane.streaming(1.5, api_base=server.base_url)).text
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
    stub.script(chunks=4, chunk_delay_s=0.4)
    started = time.monotonic()
    assert lane.stream(timeout_s=1.3).finish_reason == "stop"
    assert time.monotonic() - started > 1.5


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
