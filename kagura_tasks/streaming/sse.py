"""Streams for browsers: server-sent events, for any ASGI server and framework. Knows no framework itself.

A browser's EventSource reads them as they are. It comes back by itself where the connection breaks, and names the last
event that it got: each event's `id` is its number, so that nothing is lost or repeated.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

from kagura_tasks.errors import (
    InvalidRequest,
    KaguraTasksError,
    RedisUnreachable,
    ResultTimeout,
    StreamExpired,
    TransientError,
)
from kagura_tasks.streaming.events import Event, Failed

__all__ = ["HEADERS", "EventStreamApp", "EventStreamResponse", "encode", "frames", "last_event_id", "refusal"]

#: What the answer has to say to browsers, caches and proxies: nobody may keep it, nginx may not collect it.
HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

#: Seconds of silence after which something is sent, so that nobody on the way takes the connection for dead.
HEARTBEAT_S: Final = 15.0

#: Seconds after which a browser that lost its connection comes back.
RETRY_S: Final = 2.0

#: Seconds for which the first byte waits: what is wrong with a stream is mostly known by then, and becomes a status.
_OPENING_S: Final = 1.0

_COMMENT: Final = b":\n\n"
_EVENT_NUMBER: Final = re.compile(r"[0-9]{1,16}")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Readable(Protocol):
    """A stream to send: an LLMStream, or whatever reads like one."""

    def events(self) -> AsyncIterable[Event]:
        """Each event, in order."""
        ...

    async def aclose(self) -> None:
        """Stop reading."""
        ...


class _Left(Exception):
    """The client is gone."""


def last_event_id(value: str | None) -> int:
    """The number to resume after: of the header `Last-Event-ID`, or a parameter `after`. None: 0, the beginning.

    Raises:
        InvalidRequest: That is no event's number.
    """
    if value is None:
        return 0
    if not _EVENT_NUMBER.fullmatch(value) or int(value) >= 2**53:
        raise InvalidRequest("Last-Event-ID, or after: the number of an event, such as 17")
    return int(value)


def encode(event: Event) -> bytes:
    """The event, as EventSource reads it: its number, its kind, and JSON, in which no line break is left."""
    data = event.model_dump_json(exclude={"args"})
    if isinstance(event, Failed) and event.type == RedisUnreachable.__name__:
        data = event.model_copy(update=_words(event.error())).model_dump_json(exclude={"args"})
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n".encode()


def refusal(error: KaguraTasksError) -> tuple[int, dict[str, Any]]:
    """The HTTP status for an error, and a JSON document that says what is wrong."""
    match error:
        case StreamExpired():
            return 404, {"error": {**_words(error), "has_result": error.has_result}}
        case InvalidRequest():
            return 400, {"error": _words(error)}
        case RedisUnreachable():
            return 503, {"error": _words(error)}
        case ResultTimeout():
            return 504, {"error": _words(error)}
        case _:
            return 500, {"error": _words(error)}


async def frames(
    stream: Readable, *, heartbeat_s: float = HEARTBEAT_S, retry_s: float = RETRY_S
) -> AsyncGenerator[bytes]:
    """What EventStreamResponse sends, for the streaming response of a framework, with HEADERS.

    Whatever goes wrong is an `error` event here: by then the framework has sent its status.
    """
    try:
        yield _retry(retry_s)
        async with aclosing(_frames(stream, heartbeat_s, heartbeat_s)) as coming:
            async for frame in _with_last_words(coming):
                yield frame
    finally:
        await stream.aclose()


class EventStreamResponse:
    """An answer that is a stream of events: an ASGI application for one request, which Starlette takes as a response.

    FastAPI asks for a subclass of its own `Response`, and takes `class Events(EventStreamResponse, Response)`.

    What is known to be wrong before the first byte becomes a status: 404 (StreamExpired), 400 (InvalidRequest), 503
    (RedisUnreachable). Afterwards it is an `error` event without a number: reading failed, the task may be well, and
    EventSource tries again. After the last event the response ends. Whoever comes back after that event gets 204, which
    tells EventSource to stay away.

    A client that leaves ends the reading, and does not cancel the task.
    """

    def __init__(self, stream: Readable, *, heartbeat_s: float = HEARTBEAT_S, retry_s: float = RETRY_S) -> None:
        """Take the stream, which is closed at the end; the silence (s) after which a comment is sent, also while the
        task waits in its queue; and the seconds after which a browser comes back."""
        super().__init__()
        self._stream = stream
        self._heartbeat_s = heartbeat_s
        self._retry_s = retry_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, until the stream or the client's interest in it ends."""
        answering = asyncio.ensure_future(self._answer(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end((answering, leaving))
        for task in (answering, leaving):
            if not task.cancelled():
                with suppress(_Left):
                    task.result()

    async def _answer(self, send: Send) -> None:
        try:
            async with aclosing(_frames(self._stream, _OPENING_S, self._heartbeat_s)) as coming:
                await self._send(coming, send)
        finally:
            await self._stream.aclose()

    async def _send(self, coming: AsyncGenerator[bytes], send: Send) -> None:
        try:
            first = await anext(coming, None)
        except (StreamExpired, InvalidRequest, RedisUnreachable, ResultTimeout) as error:
            await _send_json(send, *refusal(error))
            return
        if first is None:
            await _send_whole(send, 204)
            return
        await _send(send, {"type": "http.response.start", "status": 200, "headers": _raw(HEADERS)})
        await _send_part(send, _retry(self._retry_s) + first)
        async for frame in _with_last_words(coming):
            await _send_part(send, frame)
        await _send(send, {"type": "http.response.body", "body": b""})


class EventStreamApp:
    """`GET /{task_id}`: the events of any task, as an ASGI application to mount: `app.mount("/streams", ...)`.

    Reading begins behind the header `Last-Event-ID`, or else the query's `after`, or else at the beginning. Who knows
    a task's id may read it: where that is not enough, check the caller in an endpoint, and return EventStreamResponse.
    """

    def __init__(
        self, resume: Callable[[str, int], Readable], *, heartbeat_s: float = HEARTBEAT_S, retry_s: float = RETRY_S
    ) -> None:
        """Take `LLMClient.resume`, or whatever opens the stream of a task behind an event; see EventStreamResponse."""
        self._resume = resume
        self._heartbeat_s = heartbeat_s
        self._retry_s = retry_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"server-sent events are HTTP, and this is {scope['type']}")
        if scope["method"] != "GET":
            await _send_whole(send, 405, {"Allow": "GET"})
            return
        try:
            stream = self._resume(_task_id(scope), _after(scope))
        except (StreamExpired, InvalidRequest, RedisUnreachable) as error:
            await _send_json(send, *refusal(error))
            return
        await EventStreamResponse(stream, heartbeat_s=self._heartbeat_s, retry_s=self._retry_s)(scope, receive, send)


# What is sent.


async def _frames(stream: Readable, opening_s: float, heartbeat_s: float) -> AsyncGenerator[bytes]:
    """A frame for each event, and a comment for each silence, of which the first may be shorter."""
    async with aclosing(_heard(aiter(stream.events()), opening_s, heartbeat_s)) as heard:
        async for event in heard:
            yield _COMMENT if event is None else encode(event)


async def _heard(events: AsyncIterator[Event], silence_s: float, heartbeat_s: float) -> AsyncGenerator[Event | None]:
    """The events; None for each silence."""
    # A task of its own for each: cancelling the wait for an event would end the reading.
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            _ = await asyncio.wait({coming}, timeout=silence_s)
            silence_s = heartbeat_s
            if not coming.done():
                yield None
            elif (event := coming.result()) is None:
                return
            else:
                yield event
                coming = asyncio.ensure_future(anext(events, None))
    finally:
        await _end((coming,))


async def _with_last_words(coming: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The frames; what keeps further ones from coming is the last one."""
    try:
        async for frame in coming:
            yield frame
    except KaguraTasksError as error:
        yield f"event: error\ndata: {json.dumps({'kind': 'error', **_words(error)})}\n\n".encode()


def _retry(retry_s: float) -> bytes:
    return f"retry: {round(retry_s * 1000)}\n\n".encode()


def _words(error: KaguraTasksError) -> dict[str, Any]:
    """The error, as it may be shown to anybody. The address of a Redis is nothing for a browser."""
    message = "Redis did not answer" if isinstance(error, RedisUnreachable) else str(error)
    can_try_again = isinstance(error, TransientError | RedisUnreachable | ResultTimeout)
    return {"type": type(error).__name__, "message": message, "retryable": can_try_again}


# ASGI.


async def _left(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """End what still runs, and wait until it has ended. Raises nothing of theirs."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError:
        raise _Left from None  # how servers of ASGI 2.4 say it


async def _send_part(send: Send, body: bytes) -> None:
    await _send(send, {"type": "http.response.body", "body": body, "more_body": True})


async def _send_json(send: Send, status: int, document: dict[str, Any]) -> None:
    await _send_whole(send, status, {"Content-Type": "application/json"}, json.dumps(document).encode())


async def _send_whole(send: Send, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
    told = {"Cache-Control": "no-store", **(headers or {})}
    if status != 204:
        told["Content-Length"] = str(len(body))
    await _send(send, {"type": "http.response.start", "status": status, "headers": _raw(told)})
    await _send(send, {"type": "http.response.body", "body": body})


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _task_id(scope: Message) -> str:
    """What the path says behind the place where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path.removeprefix(f"{root}/").removeprefix("/")


def _after(scope: Message) -> int:
    """Where the reader was. A browser that comes back repeats the address, whose `after` is then the older one."""
    for name, value in scope["headers"]:
        if name.lower() == b"last-event-id":
            return last_event_id(value.decode("latin-1"))
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise InvalidRequest("the query has too many fields") from None
    return last_event_id(query.get("after", [None])[-1])
