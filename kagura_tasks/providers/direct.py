"""Calls OpenAI's wire format with nothing in between: one HTTP session for each event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Final, Protocol, cast
from weakref import WeakKeyDictionary

import aiohttp

from kagura_tasks.connections import before_closing
from kagura_tasks.errors import ProviderTimeout, ProviderUnavailable, RequestRefused
from kagura_tasks.providers import wire
from kagura_tasks.providers.answers import read_plain
from kagura_tasks.providers.plain import Route, body_of, headers_of
from kagura_tasks.providers.prices import PriceList
from kagura_tasks.schemas import Completion, CompletionRequest, Json

#: A larger answer is no answer: it would only fill the worker's memory.
_MAX_ANSWER_BYTES: Final = 64 * 2**20

#: Shorter than what servers keep an idle connection (uvicorn: 5 s): one that they close while we write costs a try.
_KEEP_ALIVE_S: Final = 4.0

#: A refusal that LiteLLM answers itself, or by asking again in other words.
_LITELLM_MENDS: Final = (
    b"could not finish the message because max_tokens or model output limit was reached",
    b"conversation roles must alternate",
    b"roles should be alternating",
    b"last message must have role",
    b"parameter index is not a valid field",
)

_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


class NeedsLiteLLM(Exception):
    """This call is not for the direct lane. The provider did not answer it, so that nothing is paid for twice."""


class Reader(Protocol):
    """Reads what is unusual in an answer."""

    def read(self, answer: Json, route: Route, request: CompletionRequest) -> Completion:
        """The completion. Raises ProviderError where there is none in it."""
        ...


class DirectLane:
    """One call, over HTTP. Knows no models: the route says where they are."""

    def __init__(self, prices: PriceList, reader: Reader) -> None:
        """Take what knows prices, and what reads unusual answers. Opens nothing yet."""
        self._prices = prices
        self._reader = reader

    async def complete(self, request: CompletionRequest, route: Route, timeout_s: float) -> Completion:
        """The model's answer. Raises ProviderError, or NeedsLiteLLM; cancelling closes the connection."""
        body, headers = _encoded(request, route)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await _ask(route, headers, body, request.model)
        except TimeoutError:
            raise ProviderTimeout(wire.TOO_LATE, request.model) from None
        except (aiohttp.ClientError, OSError):
            raise ProviderUnavailable(wire.NO_CONNECTION, request.model) from None
        if not 200 <= reply.status < 300:
            raise _refusal(reply, request)
        return self._read(reply, route, request)

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


def _encoded(request: CompletionRequest, route: Route) -> tuple[bytes, dict[str, str]]:
    body, headers = body_of(request, route), headers_of(request)
    if body is None or headers is None:
        raise NeedsLiteLLM
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(), {**route.headers, **headers}
    except ValueError:  # half a surrogate pair, or no number
        raise NeedsLiteLLM from None


async def _ask(route: Route, headers: Mapping[str, str], body: bytes, model: str) -> wire.Reply:
    session = _session()
    # A redirect could send the key elsewhere.
    async with session.post(route.url, data=body, headers=headers, ssl=route.verify, allow_redirects=False) as response:
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


def _session() -> aiohttp.ClientSession:
    """The running loop's session, closed with the loop's other connections."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.closed:
        session = _sessions[loop] = aiohttp.ClientSession(
            # How many calls are in flight is decided by whoever makes them.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            # The whole call is bounded where it is made.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        before_closing(session.close)
    return session


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
