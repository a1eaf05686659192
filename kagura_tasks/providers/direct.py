"""Calls OpenAI's wire format with nothing in between: one HTTP session for each event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Final, Protocol, TypeVar, cast

import aiohttp

from kagura_tasks.connections import before_closing
from kagura_tasks.errors import ProviderTimeout, ProviderUnavailable, RequestRefused
from kagura_tasks.loops import PerLoop
from kagura_tasks.providers import wire
from kagura_tasks.providers.answers import read_plain
from kagura_tasks.providers.chunks import DONE, ChunkReader
from kagura_tasks.providers.event_stream import EventStream, EventTooLarge
from kagura_tasks.providers.plain import Route, body_of, headers_of
from kagura_tasks.providers.prices import PriceList
from kagura_tasks.providers.provider import HandOver
from kagura_tasks.providers.transient import NO_CONNECTION, TOO_LATE
from kagura_tasks.providers.written import Written
from kagura_tasks.schemas import Completion, CompletionRequest, Json, Usage

#: A larger answer is no answer: it would only fill the worker's memory.
_MAX_ANSWER_BYTES: Final = 64 * 2**20

#: The same for one event of a stream.
_MAX_EVENT_BYTES: Final = 16 * 2**20

#: Events that are read before others on the event loop get their turn: about a millisecond.
_EVENTS_A_TURN: Final = 64

#: Seconds for the last bytes of a stream, after its last event. They come with it, or else the connection is closed.
_LAST_BYTES_S: Final = 0.1

#: Shorter than what servers keep an idle connection (uvicorn: 5 s): one that they close while we write costs a try.
_KEEP_ALIVE_S: Final = 4.0

_STREAMED: Final[Json] = {"stream": True, "stream_options": {"include_usage": True}}
_NOTHING_USED: Final[Json] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

T = TypeVar("T")

#: A refusal that LiteLLM answers itself, or by asking again in other words.
_LITELLM_MENDS: Final = (
    b"could not finish the message because max_tokens or model output limit was reached",
    b"conversation roles must alternate",
    b"roles should be alternating",
    b"last message must have role",
    b"parameter index is not a valid field",
)


class NeedsLiteLLM(Exception):
    """This call is not for the direct lane. The provider did not answer it, so that nothing is paid for twice."""


class Reader(Protocol):
    """Reads what is unusual in an answer."""

    def read(self, answer: Json, route: Route, request: CompletionRequest) -> Completion:
        """The completion. Raises ProviderError where there is none in it."""
        ...

    async def count(self, request: CompletionRequest, text: str) -> Usage:
        """What a call used whose provider did not say."""
        ...


class DirectLane:
    """One call, over HTTP. Knows no models: the route says where they are."""

    def __init__(self, prices: PriceList, reader: Reader) -> None:
        """Take what knows prices, and what reads unusual answers. Opens nothing yet."""
        self._prices = prices
        self._reader = reader

    async def complete(self, request: CompletionRequest, route: Route, timeout_s: float) -> Completion:
        """The model's answer. Raises ProviderError, or NeedsLiteLLM; cancelling closes the connection."""
        body, headers = _encoded(request, route, {})
        try:
            async with asyncio.timeout(timeout_s):
                reply = await _ask(route, headers, body, request.model)
        except TimeoutError:
            raise ProviderTimeout(TOO_LATE, request.model) from None
        except (aiohttp.ClientError, OSError):
            raise ProviderUnavailable(NO_CONNECTION, request.model) from None
        if not 200 <= reply.status < 300:
            raise _refusal(reply, request)
        return self._read(reply, route, request)

    async def stream(
        self, request: CompletionRequest, route: Route, timeout_s: float, hand_over: HandOver
    ) -> Completion:
        """The same, and its text is handed over as it comes: see Provider. NeedsLiteLLM comes before any text."""
        body, headers = _encoded(request, route, _STREAMED if route.tells_usage else {"stream": True})
        written = Written(request.model, hand_over)
        reader = ChunkReader(request, written)
        silence = _Silence(timeout_s)
        try:
            async with silence.deadline:
                reply = await _ask_for_stream(route, headers, body, reader, silence)
        except TimeoutError:
            if not silence.deadline.expired():
                raise  # the receiver's own
            if written.finish_reason is None:
                raise ProviderTimeout(TOO_LATE, request.model) from None
            reply = None
        if reply is None:
            return await self._finished(reader, written, route, request)
        return self._in_one_piece(reply, written, route, request)

    async def _finished(
        self, reader: ChunkReader, written: Written, route: Route, request: CompletionRequest
    ) -> Completion:
        if written.finish_reason is None:
            raise ProviderUnavailable(wire.CUT, request.model)
        written.end()
        used = reader.usage
        is_counted = isinstance(used, dict) and bool(cast(Json, used).get("prompt_tokens"))
        answer = reader.answer({**cast(Json, used)} if is_counted else _NOTHING_USED)
        completion = read_plain(answer, route, request.model, self._prices) or self._reader.read(answer, route, request)
        usage = completion.usage if is_counted else await self._reader.count(request, written.counted_text)
        return completion.model_copy(update={"text": written.text, "usage": usage})

    def _in_one_piece(
        self, reply: wire.Reply, written: Written, route: Route, request: CompletionRequest
    ) -> Completion:
        if not 200 <= reply.status < 300:
            raise _refusal(reply, request)
        completion = self._read(reply, route, request)
        written.add_text(completion.text)
        written.end()
        return completion.model_copy(update={"text": written.text})

    def _read(self, reply: wire.Reply, route: Route, request: CompletionRequest) -> Completion:
        answer = reply.json()
        if not isinstance(answer, dict):
            raise ProviderUnavailable("the provider's answer is no JSON object", request.model)
        found = cast(Json, answer)
        if found.get("error"):
            raise wire.error_of(wire.Reply(_status_in(found), reply.headers, reply.body), request)
        if not found.get("choices"):
            raise ProviderUnavailable(wire.NO_CHOICES, request.model)
        completion = read_plain(found, route, request.model, self._prices)
        return completion or self._reader.read(found, route, request)


class _Silence:
    """How long nothing may come."""

    def __init__(self, timeout_s: float) -> None:
        self.deadline = asyncio.timeout(timeout_s)
        self._timeout_s = timeout_s

    def begin(self) -> None:
        """Something came: it begins anew."""
        self.deadline.reschedule(asyncio.get_running_loop().time() + self._timeout_s)


def _encoded(request: CompletionRequest, route: Route, delivery: Json) -> tuple[bytes, dict[str, str]]:
    body, headers = body_of(request, route), headers_of(request)
    if body is None or headers is None:
        raise NeedsLiteLLM
    try:
        text = json.dumps({**body, **delivery}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(), {**route.headers, **headers}
    except ValueError:  # half a surrogate pair, or no number
        raise NeedsLiteLLM from None


async def _ask(route: Route, headers: Mapping[str, str], body: bytes, model: str) -> wire.Reply:
    async with await _post(route, headers, body) as response:
        return await _whole(response, model)


async def _ask_for_stream(
    route: Route, headers: Mapping[str, str], body: bytes, reader: ChunkReader, silence: _Silence
) -> wire.Reply | None:
    """Read a stream into the reader, or return the reply that is none. Closes the connection where that fails."""
    response = await _connected(_post(route, headers, body), reader.model)
    try:
        if not 200 <= response.status < 300 or response.content_type == "application/json":
            return await _connected(_whole(response, reader.model), reader.model)
        await _read_events(response.content, reader, silence)
        return None
    finally:
        # Where all was read, the connection is free for the next call already, and this does nothing.
        response.close()


async def _connected(exchange: Awaitable[T], model: str) -> T:
    try:
        return await exchange
    except (aiohttp.ClientError, OSError):
        raise ProviderUnavailable(NO_CONNECTION, model) from None


async def _read_events(content: aiohttp.StreamReader, reader: ChunkReader, silence: _Silence) -> None:
    stream = EventStream(_MAX_EVENT_BYTES)
    read = 0
    while part := await _next_part(content):
        events = _events_in(part, stream, reader.model)
        if events:
            silence.begin()
        for event in events:
            if event.startswith(DONE):
                return await _read_to_end(content)
            reader.read(event)
            read += 1
            if read % _EVENTS_A_TURN == 0:
                await asyncio.sleep(0)
    return None


async def _next_part(content: aiohttp.StreamReader) -> bytes:
    """What has come, or nothing at the end. Whether a dropped connection cut the answer is for the answer to say."""
    try:
        return await content.readany()
    except (aiohttp.ClientError, OSError):
        return b""


def _events_in(part: bytes, stream: EventStream, model: str) -> list[bytes]:
    try:
        return stream.feed(part)
    except EventTooLarge:
        raise RequestRefused(f"a part of the answer is larger than {_MAX_EVENT_BYTES >> 20} MB", model) from None


async def _read_to_end(content: aiohttp.StreamReader) -> None:
    """So that the next call finds an open connection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_BYTES_S):
            while await _next_part(content):
                pass


async def _post(route: Route, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
    # A redirect could send the key elsewhere.
    return await _sessions.here().post(route.url, data=body, headers=headers, ssl=route.verify, allow_redirects=False)


async def _whole(response: aiohttp.ClientResponse, model: str) -> wire.Reply:
    return wire.Reply(response.status, response.headers, await _bounded(response.content, model))


async def _bounded(content: aiohttp.StreamReader, model: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise RequestRefused(f"the provider's answer is larger than {_MAX_ANSWER_BYTES >> 20} MB", model)
    return b"".join(parts)


def _new_session() -> aiohttp.ClientSession:
    """The running loop's session, closed with the loop's other connections."""
    before_closing(_close_session)
    return aiohttp.ClientSession(
        # How many calls are in flight is decided by whoever makes them.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        # The whole call is bounded where it is made.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
    )


async def _close_session() -> None:
    if (session := _sessions.take()) is not None:
        await session.close()


_sessions = PerLoop(_new_session)


def _refusal(reply: wire.Reply, request: CompletionRequest) -> Exception:
    text = reply.body.lower()
    if reply.status < 400 or (reply.status < 500 and any(words in text for words in _LITELLM_MENDS)):
        return NeedsLiteLLM()
    return wire.error_of(reply, request)


def _status_in(answer: Json) -> int:
    """Some gateways send an error with status 200, and the status as its code."""
    error = answer["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 422
