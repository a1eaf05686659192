"""A provider for what llmock has no words for: OpenAI's chat completions over real HTTP, scripted by JSON.

Run it as a program: it prints its address and ends when its standard input does. It imports nothing of this project,
so that benchmarks run the same file. Under the address:

    POST   /v1/chat/completions   the provider
    POST   /v1/embeddings         the same, for vectors: texts that share words are near each other
    POST   /script                a list of behaviours (see `Behaviour`), in front of those that are there
    GET    /ledger                {"requests": [...], "count": n, "in_flight": n, "peak": n}; ?brief: no requests
    POST   /release               answer what is held, and hold nothing more
    POST   /reset                 forget behaviours and ledger
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from os import _exit
from typing import Any

from aiohttp import web


@dataclass
class Behaviour:
    """How requests are answered that nothing in front of it answers.

    Attributes:
        when: Only requests whose body contains this text.
        times: Only this many of them; None is all.
        text: The answer's text; None is a null content.
        echoes: The answer's text is the last message's.
        finish_reason: As it is sent; None is null.
        status: The HTTP status.
        headers: Further headers, such as Retry-After.
        body: Sent in place of a completion, as it is.
        delay_s: Seconds before the first byte.
        held: No byte before /release.
        chunks: Pieces of a streamed answer.
        chunk_delay_s: Seconds before each piece.
        cut_after: Drop the connection after this many pieces (0: before the first byte); None never.
        stall_after: Send nothing more after this many pieces of a stream before /release, and keep the connection.
        error_after: Send `error` after this many pieces of a stream, and end it.
        error: An error as it comes in the middle of a stream.
        most: So many requests in any `window_s` (s); further ones are refused with 429, and count as well.
        window_s: See `most`.
        calls: Calls of tools, in OpenAI's form.
        fields: Merged into the completion (plain), replacing its own fields: usage, choices, ...
    """

    when: str = ""
    times: int | None = None
    text: str | None = "This is a scripted answer."
    echoes: bool = False
    finish_reason: str | None = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    delay_s: float = 0.0
    held: bool = False
    chunks: int = 5
    chunk_delay_s: float = 0.0
    cut_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    error: dict[str, Any] = field(default_factory=dict)
    most: int | None = None
    window_s: float = 60.0
    calls: list[dict[str, Any]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """One request. Times are time.monotonic(), which on Linux is one clock for all processes."""

    body: dict[str, Any]
    headers: dict[str, str]
    started_at: float
    ended_at: float | None = None
    status: int = 0
    left: bool = False  # the client closed the connection before the end


class Provider:
    """The behaviours and the ledger."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        self.released.set()
        self.released = asyncio.Event()
        self.behaviours: list[Behaviour] = [Behaviour()]
        self.seen: list[Seen] = []
        self.in_flight = self.peak = 0

    def choose(self, body: str) -> Behaviour:
        chosen = next(one for one in self.behaviours if one.when in body and one.times != 0)
        if chosen.times is not None:
            chosen.times -= 1
        return chosen

    def ledger(self, *, brief: bool) -> dict[str, Any]:
        requests = {} if brief else {"requests": [asdict(one) for one in self.seen]}
        return {**requests, "count": len(self.seen), "in_flight": self.in_flight, "peak": self.peak}

    def begun_since(self, moment: float) -> int:
        later = 0
        for one in reversed(self.seen):
            if one.started_at <= moment:
                break
            later += 1
        return later

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        seen = Seen(json.loads(text), dict(request.headers), time.monotonic())
        self.seen.append(seen)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            how = self.choose(text)
            if how.echoes:
                how = replace(how, text=str(seen.body["messages"][-1]["content"]))
            if how.held:
                await self.released.wait()
            if how.most is not None and self.begun_since(seen.started_at - how.window_s) > how.most:
                how = replace(how, status=429)
            response = await _respond(request, seen.body, how, self.released)
            seen.status = response.status
            return response
        except (asyncio.CancelledError, ConnectionError):
            seen.left = True
            raise
        finally:
            seen.ended_at = time.monotonic()
            self.in_flight -= 1


async def _respond(
    request: web.Request, body: dict[str, Any], how: Behaviour, released: asyncio.Event
) -> web.StreamResponse:
    await asyncio.sleep(how.delay_s)
    if how.cut_after == 0:
        return _cut(request, web.Response())
    if how.body is not None or how.status != 200:
        refusal = json.dumps({"error": {"message": f"scripted {how.status}", "type": "scripted", "code": None}})
        sent = how.body if how.body is not None else refusal
        return web.Response(text=sent, status=how.status, headers=how.headers, content_type="application/json")
    if body.get("stream"):
        return await _stream(request, body, how, released)
    return web.json_response(_completion(body, how), headers=how.headers)


def _completion(body: dict[str, Any], how: Behaviour) -> dict[str, Any]:
    message = {"role": "assistant", "content": how.text, **({"tool_calls": how.calls} if how.calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": how.finish_reason}
    return {**_envelope(body, "chat.completion"), "choices": [choice], "usage": _usage(how), **how.fields}


async def _stream(
    request: web.Request, body: dict[str, Any], how: Behaviour, released: asyncio.Event
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **how.headers})
    await response.prepare(request)
    envelope, text = _envelope(body, "chat.completion.chunk"), how.text or ""
    size = max(1, -(-len(text) // how.chunks))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for sent in range(len(pieces) + 1):
        if sent == how.cut_after:
            return _cut(request, response)
        if sent == how.stall_after:
            await released.wait()
        if sent == how.error_after:
            await _send(response, {"error": how.error})
            return response
        if sent < len(pieces):
            await asyncio.sleep(how.chunk_delay_s)
            choice = {"index": 0, "delta": {"content": pieces[sent]}, "finish_reason": None}
            await _send(response, {**envelope, "choices": [choice]})
    if how.calls:
        delta = {"tool_calls": [{"index": index, **call} for index, call in enumerate(how.calls)]}
        await _send(response, {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    await _send(response, {**envelope, "choices": [{"index": 0, "delta": {}, "finish_reason": how.finish_reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        await _send(response, {**envelope, "choices": [], "usage": _usage(how)})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


def _envelope(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": int(time.time()), "model": body.get("model", "")}


def _usage(how: Behaviour) -> dict[str, int]:
    completion_tokens = len((how.text or "").split())
    return {"prompt_tokens": 7, "completion_tokens": completion_tokens, "total_tokens": 7 + completion_tokens}


def _vector(text: str) -> list[float]:
    """Of 64 numbers: each word, and each character beyond ASCII, adds to one of them."""
    vector = [0.0] * 64
    for word in (*text.lower().split(), *(char for char in text if ord(char) > 127)):
        vector[sum(word.encode()) % 64] += 1.0
    return vector


async def serve() -> None:
    """Serve on a free port of loopback, print the address, and go on for ever."""
    provider = Provider()

    async def script(request: web.Request) -> web.Response:
        provider.behaviours[:0] = [Behaviour(**one) for one in await request.json()]
        return web.json_response({})

    async def embeddings(request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text)
        provider.seen.append(Seen(body, dict(request.headers), time.monotonic()))
        how = provider.choose(text)
        if how.body is not None or how.status != 200:
            return web.Response(text=how.body or "{}", status=how.status, content_type="application/json")
        rows = [{"object": "embedding", "index": at, "embedding": _vector(one)} for at, one in enumerate(body["input"])]
        usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
        return web.json_response({"object": "list", "model": body["model"], "data": rows, "usage": usage})

    async def ledger(request: web.Request) -> web.Response:
        return web.json_response(provider.ledger(brief="brief" in request.query))

    async def release(_: web.Request) -> web.Response:
        provider.released.set()
        return web.json_response({})

    async def reset(_: web.Request) -> web.Response:
        provider.reset()
        return web.json_response({})

    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_post("/v1/chat/completions", provider.answer)
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_post("/script", script)
    app.router.add_get("/ledger", ledger)
    app.router.add_post("/release", release)
    app.router.add_post("/reset", reset)
    # With handler_cancellation a client that closes its connection shows in the ledger, and at once.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


def end_with_stdin() -> None:
    """End this process as soon as whoever started it is gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        _exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_stdin()
    asyncio.run(serve())
