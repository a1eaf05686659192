"""Server-sent events over real HTTP: what a browser gets, whatever it does."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import redis
from fastapi import FastAPI, Header
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount

from kagura_tasks import LLMClient, Settings
from kagura_tasks.errors import RedisUnreachable, ResultTimeout
from kagura_tasks.settings import RedisUrl
from kagura_tasks.streaming.events import Event, Failed, Start, fields_of_error
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.sse import HEADERS, EventStreamApp, EventStreamResponse, encode, frames, last_event_id
from tests.support.llm import StubServer
from tests.support.wait import auntil
from tests.support.web import serving
from tests.support.workers import Fleet

TEXT = "Straße, 日本語, 👩‍👩‍👧 and\r\n\r\ndata: new lines. " * 20


@dataclass
class Got:
    """What one reader got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, checked against the lines around their data."""
        found: list[dict[str, Any]] = []
        for frame in self.body.split("\n\n"):
            fields = dict(line.partition(": ")[::2] for line in frame.split("\n") if line and line[0] != ":")
            if "data" in fields:
                event = json.loads(fields["data"])
                assert fields["event"] == event["kind"]
                assert fields.get("id") == (str(event["seq"]) if "seq" in event else None)
                found.append(event)
        return found

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["kind"] == "chunk")


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def get(http: aiohttp.ClientSession, url: str, **headers: str) -> Got:
    """The whole answer."""
    async with http.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}) as answer:
        return Got(answer.status, _lower(answer.headers), (await answer.read()).decode())


async def test_a_browser_gets_every_event_once(
    fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str, http: aiohttp.ClientSession
):
    """Number, kind and JSON of each event, in order; the text is the provider's, line breaks and all."""
    stub.script(text=TEXT, chunks=40, chunk_delay_s=0.005)
    async with serving(EventStreamApp(client.resume)) as url:
        task = await client.asubmit(prompt, stream=True)
        got = await get(http, f"{url}/{task.id}")
    assert got.status == 200
    assert got.headers["content-type"] == "text/event-stream"
    assert got.headers["cache-control"] == "no-cache"
    assert got.headers["x-accel-buffering"] == "no"
    assert got.body.startswith("retry: 2000\n\n")
    assert [event["seq"] for event in got.events] == list(range(1, len(got.events) + 1))
    assert (got.events[0]["kind"], got.events[-1]["kind"]) == ("start", "done")
    assert got.text == TEXT


@pytest.mark.parametrize("how", ["header", "query", "header before query"])
async def test_whoever_comes_back_goes_on_exactly(
    how: str, fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str, http: aiohttp.ClientSession
):
    """Behind the last event that was read, nothing is missing and nothing comes twice."""
    stub.script(text=TEXT, chunks=6, chunk_delay_s=0.03)
    async with serving(EventStreamApp(client.resume)) as url:
        task = await client.asubmit(prompt, stream=True)
        whole = await get(http, f"{url}/{task.id}")
        for last in range(len(whole.events)):
            query = {"header": "", "query": f"?after={last}", "header before query": "?after=1"}[how]
            headers = {} if how == "query" else {"Last_Event_ID": str(last)}
            rest = await get(http, f"{url}/{task.id}{query}", **headers)
            assert rest.events == whole.events[last:]


async def test_whoever_has_read_the_end_is_told_to_stay_away(
    fleet: Fleet, client: LLMClient, stub: StubServer, prompt: str, http: aiohttp.ClientSession
):
    """204 keeps EventSource from coming back for ever."""
    async with serving(EventStreamApp(client.resume)) as url:
        task = await client.asubmit(prompt, stream=True)
        last = (await get(http, f"{url}/{task.id}")).events[-1]["seq"]
        got = await get(http, f"{url}/{task.id}", Last_Event_ID=str(last))
    assert (got.status, got.body) == (204, "")


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", " 1 2", "9" * 16, "9" * 5000, "\u0661", "1, 2"])
async def test_what_is_no_events_number_is_400(
    value: str, redis_url: RedisUrl, client: LLMClient, http: aiohttp.ClientSession
):
    """As a header and as a parameter, before anything is read."""
    async with serving(EventStreamApp(client.resume)) as url:
        refused = [
            await get(http, f"{url}/some-task", Last_Event_ID=value),
            Got(*await _raw_query(http, f"{url}/some-task", value)),
        ]
    for got in refused:
        assert got.status == 400
        assert json.loads(got.body)["error"]["type"] == "InvalidRequest"
        assert len(got.body) < 500


async def _raw_query(http: aiohttp.ClientSession, url: str, value: str) -> tuple[int, dict[str, str], str]:
    async with http.get(url, params={"after": value}) as answer:
        return answer.status, _lower(answer.headers), await answer.text()


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def test_a_task_id_that_cannot_be_one_is_400(client: LLMClient, http: aiohttp.ClientSession):
    """It would become part of a key."""
    async with serving(EventStreamApp(client.resume)) as url:
        assert [(await get(http, f"{url}/{name}")).status for name in ("", "a%20b", "x" * 201, "a*")] == [400] * 4


async def test_an_unknown_stream_is_404(client: LLMClient, http: aiohttp.ClientSession):
    """Said with a status, so within the second for which the first byte waits; and whether there is a result."""
    async with serving(EventStreamApp(client.resume)) as url:
        got = await get(http, f"{url}/never-sent")
    assert got.status == 404
    said = json.loads(got.body)["error"]
    assert (said["type"], said["has_result"]) == ("StreamExpired", False)


async def test_an_expired_stream_says_that_there_is_a_result(
    fleet: Fleet,
    stub: StubServer,
    client: LLMClient,
    settings: Settings,
    client_of_redis: redis.Redis,
    prompt: str,
    http: aiohttp.ClientSession,
):
    """A page can then ask for the whole text instead."""
    task = await client.asubmit(prompt, stream=True)
    _ = await task
    name = StreamName(settings.tenant, task.id)
    _ = await auntil(partial(asyncio.to_thread, client_of_redis.hget, name.state_key, "ended"), 10, "the stream's end")
    client_of_redis.delete(name.key, name.state_key)
    async with serving(EventStreamApp(client.resume)) as url:
        got = await get(http, f"{url}/{task.id}")
    assert (got.status, json.loads(got.body)["error"]["has_result"]) == (404, True)


async def test_a_redis_that_is_away_is_503(http: aiohttp.ClientSession):
    """Its address is not for the browser."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"redis://:secret@127.0.0.1:{gone.getsockname()[1]}/0"
    away = LLMClient(Settings(redis_url=RedisUrl(address), redis_timeout_s=0.1, wait_timeout_s=0.1))
    async with serving(EventStreamApp(away.resume)) as url:
        got = await get(http, f"{url}/some-task")
    assert got.status == 503
    assert json.loads(got.body)["error"] == {
        "type": "RedisUnreachable",
        "message": "Redis did not answer",
        "retryable": True,
    }


def test_no_address_of_a_redis_is_told():
    """Nor where the worker's Redis was away: the last event says what happened, and not where."""
    error = RedisUnreachable("redis://10.0.0.7:6379/0")
    event = Failed(seq=3, attempt=1, at_ms=1, **fields_of_error(error))
    said = json.loads(encode(event).decode().partition("data: ")[2])
    assert (said["seq"], said["type"], said["message"]) == (3, "RedisUnreachable", "Redis did not answer")
    assert "10.0.0.7" not in encode(event).decode()


async def test_only_get_is_answered(client: LLMClient, http: aiohttp.ClientSession):
    """Reading changes nothing, and nothing can be changed here."""
    async with serving(EventStreamApp(client.resume)) as url, http.post(f"{url}/some-task") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_silence_is_filled_with_comments(redis_url: RedisUrl, client: LLMClient, http: aiohttp.ClientSession):
    """Also while the task waits in its queue: no worker runs here."""
    async with serving(EventStreamApp(client.resume, heartbeat_s=0.05)) as url:
        task = await client.asubmit("Wait.", stream=True)
        async with http.get(f"{url}/{task.id}") as answer:
            assert await answer.content.readexactly(len("retry: 2000\n\n" + 5 * ":\n\n")) == (
                b"retry: 2000\n\n" + 5 * b":\n\n"
            )
        await client.acancel(task.id)


async def test_leaving_ends_the_reading_and_not_the_task(
    fleet: Fleet,
    stub: StubServer,
    client: LLMClient,
    settings: Settings,
    client_of_redis: redis.Redis,
    prompt: str,
    http: aiohttp.ClientSession,
):
    """Nobody listens any more in the moment in which the browser is gone; the answer comes all the same."""
    stub.script(text=TEXT, held=True)
    async with serving(EventStreamApp(client.resume)) as url:
        task = await client.asubmit(prompt, stream=True)
        channel = StreamName(settings.tenant, task.id).key

        async def listeners() -> int:
            return (await asyncio.to_thread(client_of_redis.pubsub_numsub, channel))[0][1]

        async def nobody() -> bool:
            return await listeners() == 0

        async with http.get(f"{url}/{task.id}") as answer:
            assert await answer.content.readline() == b"retry: 2000\n"
            assert await listeners() == 1
        await auntil(nobody, 5, "the end of the reading")
        stub.release()
        assert (await task).text == TEXT


async def test_a_slow_reader_delays_nobody(
    fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str, http: aiohttp.ClientSession
):
    """99 of 100 readers are through while one has not read a byte; then that one, too, gets every event once."""
    stub.script(text=TEXT * 120, chunks=100, chunk_delay_s=0.002)
    async with serving(EventStreamApp(client.resume), send_buffer_bytes=4096) as url:
        task = await client.asubmit(prompt, stream=True)
        slow = await _asked_only(url, task.id)
        got = await asyncio.gather(*(get(http, f"{url}/{task.id}") for _ in range(99)))
        assert {one.text == TEXT * 120 for one in got} == {True}
        reader, writer = await asyncio.open_connection(sock=slow)
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    assert Got(body=answer.partition("\r\n\r\n")[2]).events == got[0].events


async def _asked_only(url: str, task_id: str) -> socket.socket:
    """A connection on which a request was sent, and nothing is read. HTTP/1.0: the body is sent as it is."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, ("127.0.0.1", int(url.rpartition(":")[2])))
    await loop.sock_sendall(slow, f"GET /{task_id} HTTP/1.0\r\n\r\n".encode())
    return slow


class _Broken:
    """A stream that breaks behind its first event."""

    closed = False

    async def events(self) -> AsyncIterator[Event]:
        yield Start(seq=1, attempt=1, at_ms=1)
        raise ResultTimeout("some-task", 600)

    async def aclose(self) -> None:
        self.closed = True


async def test_what_goes_wrong_later_is_an_event(http: aiohttp.ClientSession):
    """It has no number: whoever comes back goes on behind the last event of the stream."""
    stream = _Broken()
    async with serving(EventStreamApp(lambda task_id, after: stream)) as url:
        got = await get(http, f"{url}/some-task")
    assert got.status == 200
    assert [(event["kind"], event.get("seq")) for event in got.events] == [("start", 1), ("error", None)]
    assert (got.events[-1]["type"], got.events[-1]["retryable"]) == ("ResultTimeout", True)
    assert stream.closed


class _Events(EventStreamResponse, Response):
    """What FastAPI takes."""


def _fastapi(client: LLMClient) -> FastAPI:
    app = FastAPI()

    @app.get("/answers/{task_id}/events")
    async def read(task_id: str, last: str | None = Header(None, alias="Last-Event-ID")) -> _Events:
        return _Events(client.resume(task_id, last_event_id(last)))

    @app.get("/plain/{task_id}")
    async def plain(task_id: str) -> StreamingResponse:
        return StreamingResponse(frames(client.resume(task_id)), headers=HEADERS)

    app.mount("/streams", EventStreamApp(client.resume))
    return app


@pytest.mark.parametrize("path", ["/answers/{}/events", "/plain/{}", "/streams/{}", "/under/streams/{}"])
async def test_frameworks_take_it(
    path: str, fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str, http: aiohttp.ClientSession
):
    """As an endpoint's response, as the frames of a framework's own response, mounted, and mounted in a mount."""
    stub.script(text=TEXT)
    app = _fastapi(client)
    async with serving(Starlette(routes=[Mount("/under", app), Mount("/", app)])) as url:
        task = await client.asubmit(prompt, stream=True)
        got = await get(http, url + path.format(task.id))
    assert (got.status, got.headers["content-type"]) == (200, "text/event-stream")
    assert got.text == TEXT


async def test_an_endpoint_refuses_like_the_application(
    redis_url: RedisUrl, client: LLMClient, http: aiohttp.ClientSession
):
    """The status is known before the first byte there, too."""
    async with serving(_fastapi(client)) as url:
        assert (await get(http, f"{url}/answers/never-sent/events")).status == 404
        assert (await get(http, f"{url}/streams/never-sent")).status == 404
