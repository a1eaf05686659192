"""Streamed chat completions as they go over the wire, and what comes out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kagura_tasks import errors
from kagura_tasks.schemas import Completion
from tests.support.lanes import MODEL, Lane, failure
from tests.support.raw_server import RawServer

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

#: The last event of a stream.
DONE = b"data: [DONE]\n\n"


def event(data: object) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **fields: Any) -> bytes:
    """An event of a streamed chat completion; fields are the chunk's."""
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": reason}]
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return event({**about, "choices": choices, **fields})


def text_chunks(*pieces: str) -> list[bytes]:
    """One chunk for each."""
    return [chunk({"content": piece}) for piece in pieces]


def framed(events: Sequence[bytes], framing: str = "close") -> list[bytes]:
    """The head of a reply, and each event as it goes on the wire: the end is told by "close", "length" or "chunked"."""
    if framing == "length":
        return [_HEAD + f"Content-Length: {sum(map(len, events))}\r\n\r\n".encode(), *events]
    if framing == "chunked":
        wrapped = [f"{len(one):x}\r\n".encode() + one + b"\r\n" for one in events]
        return [_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *wrapped, b"0\r\n\r\n"]
    return [_HEAD + b"Connection: close\r\n\r\n", *events]


USED = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
STOP = chunk(reason="stop")
BEGIN = chunk({"role": "assistant", "content": ""})

#: The error of a stream that was cut, and of one that cannot be read.
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
