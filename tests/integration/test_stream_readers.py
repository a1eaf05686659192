"""Readers of what is there, of what is not, and of what is none of ours. The writers here are this process's own."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import pytest
import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import async_client
from kagura_tasks.errors import InvalidRequest, StreamExpired, StreamGap
from kagura_tasks.streaming.events import Cancelled, Chunk, Done, Gap
from kagura_tasks.streaming.log import RESERVE, StreamName
from kagura_tasks.streaming.publisher import publisher
from kagura_tasks.streaming.subscriber import Subscriber
from kagura_tasks.streaming.writer import StreamWriter
from kagura_tasks.task_store import record_key
from tests.support.stream_places import numbers, text_of, until_quiet, whole
from tests.support.wait import auntil

_ANSWER = {"text": "The answer.", "model": "m", "finish_reason": "stop"}


@pytest.fixture
def name(settings: Settings) -> StreamName:
    return StreamName(settings.tenant, uuid4().hex)


def open_writer(settings: Settings, name: StreamName) -> StreamWriter:
    return publisher(settings).open(name)


def answered(client: redis.Redis, task_id: str, answer: dict[str, Any] = _ANSWER) -> None:
    """Record the task's answer, as Celery does."""
    record = {"status": "SUCCESS", "result": {**_ANSWER, **answer}, "task_id": task_id}
    client.set(record_key(task_id), json.dumps(record), ex=60)


def test_who_asks_for_an_unknown_stream_is_told_at_once(client: LLMClient):
    """Within a second, and that there is no result either."""
    asked_at = time.monotonic()
    with pytest.raises(StreamExpired) as caught:
        list(client.resume("no-such-task"))
    assert time.monotonic() - asked_at < 1
    assert not caught.value.has_result


def test_who_asks_for_an_expired_stream_is_told_of_its_result(client: LLMClient, client_of_redis: redis.Redis):
    """The events are gone; the answer is still there, and said to be."""
    answered(client_of_redis, "a-task")
    with pytest.raises(StreamExpired) as caught:
        list(client.resume("a-task", after=7))
    assert caught.value.has_result
    assert client.result("a-task").get(timeout_s=5).text == "The answer."


@pytest.mark.parametrize("task_id", ["", "a b", "a\nb", "a*", "日本", "x" * 201, "a\x00", "a?b", "{a}"])
def test_an_id_that_cannot_be_one_is_refused(client: LLMClient, task_id: str):
    """It would become part of a key; nothing is asked for."""
    with pytest.raises(InvalidRequest):
        client.resume(task_id)


@pytest.mark.parametrize("after", [-1, 2**53, 10**30, 1.5, "3", None, True, float("nan")])
def test_a_cursor_that_cannot_be_one_is_refused(client: LLMClient, after: Any):
    """Before anything is asked for."""
    with pytest.raises(InvalidRequest):
        client.resume("a-task", after=after)


async def test_a_cursor_beyond_the_end_gets_the_end(settings: Settings, client: LLMClient, name: StreamName):
    """Of a stream that is written, it waits for it; of one that has ended, it is there."""
    writer = open_writer(settings, name)
    writer.write("one")
    await until_quiet()
    early = asyncio.create_task(_all(client, name, 10**6))
    await until_quiet()
    assert not early.done()
    writer.write(" two")
    await writer.done(whole("one two"))
    (end,) = await asyncio.wait_for(early, 10)
    assert isinstance(end, Done)
    assert await _all(client, name, 10**6) == [end]
    assert await _all(client, name, end.seq) == []
    assert (await client.resume(name.task_id, 10**6).acompletion()).text == "one two"


_NOT_OURS = {
    "bytes": b"\xff\x00\xfe",
    "another shape": b'["seq", 3]',
    "an unknown kind": b'{"seq": 3, "attempt": 1, "at_ms": 1, "kind": "hello"}',
    "a huge one": b'{"kind": "chunk", "text": "' + b"x" * 2_000_000 + b'"}',
    "deep": b"[" * 100_000,
    "an event that only readers make": b'{"seq": 3, "attempt": 1, "at_ms": 1, "kind": "lost"}',
    "a gap that only readers see": b'{"seq": 9, "first": 3, "attempt": 1, "at_ms": 1, "kind": "gap"}',
    "a lower attempt": b'{"seq": 3, "attempt": 0, "at_ms": 1, "kind": "chunk", "text": "forged"}',
    "a number from far away": b'{"seq": 1000000000000000000, "attempt": 1, "at_ms": 1, "kind": "chunk", "text": "x"}',
    "an end from far away": b'{"seq": 1000000000000000000, "attempt": 1, "at_ms": 1, "kind": "cancelled"}',
}


@pytest.mark.parametrize("what", _NOT_OURS)
async def test_what_is_not_ours_on_the_channel_is_ignored(
    settings: Settings, name: StreamName, what: str, caplog: pytest.LogCaptureFixture
):
    """The log says so, once; what comes before and after it is read as ever."""
    writer = open_writer(settings, name)
    writer.write("one")
    subscriber = Subscriber(settings, name, is_ours=True)
    events = []

    async def read() -> None:
        async for batch in subscriber.batches():
            events.extend(batch)

    reading = asyncio.create_task(read())
    await auntil(lambda: _true(len(events) == 2), what="the first text")
    assert await async_client(settings.results, settings.redis_timeout_s).publish(name.key, _NOT_OURS[what])
    await auntil(lambda: _true("something that is no event" in caplog.text), what="the line that says so")
    writer.write(" two")
    await writer.done(whole("one two"))
    await asyncio.wait_for(reading, 10)
    assert numbers(events) == list(range(1, len(events) + 1))
    assert text_of(events) == "one two"
    assert caplog.text.count("something that is no event") == 1


async def _true(value: bool) -> bool:
    return value


async def test_what_is_not_ours_in_the_log_is_ignored(settings: Settings, client: LLMClient, name: StreamName):
    """An entry of another shape, or with another number than it says, is passed over."""
    redis_ = async_client(settings.results, settings.redis_timeout_s)
    chunk = Chunk(seq=3, attempt=1, at_ms=0, text="forged").model_dump_json()
    writer = open_writer(settings, name)
    writer.write("one")
    await until_quiet()
    for number, fields in (("3-1", {"a": "b"}), ("4-0", {"event": chunk}), ("5-0", {"event": b"\xff"})):
        await redis_.xadd(name.key, fields, id=number)
    await redis_.hset(name.state_key, "seq", 5)
    writer._seq = 5
    writer.write(" two")
    await writer.done(whole("one two"))
    events = await _all(client, name, 0)
    assert text_of(events) == "one two"
    assert [event.kind for event in events if not isinstance(event, Chunk)] == ["start", "done"]


@pytest.mark.parametrize("part", ["key", "state_key"])
async def test_keys_that_hold_something_else_are_no_stream(
    settings: Settings, client: LLMClient, name: StreamName, part: str
):
    """Whoever writes is not kept from answering, and whoever reads is told."""
    await async_client(settings.results, settings.redis_timeout_s).set(getattr(name, part), "a text", ex=60)
    writer = open_writer(settings, name)
    writer.write("one")
    await asyncio.wait_for(writer.done(whole("one")), 10)
    with pytest.raises(StreamExpired):
        await _all(client, name, 0)


async def test_a_trimmed_log_is_one_gap_and_the_answer_is_whole(
    settings: Settings, client: LLMClient, name: StreamName, client_of_redis: redis.Redis
):
    """Chunks raise StreamGap once, and the next loop goes on behind it; `completion` takes the text from the result."""
    pieces = [f"{number:04d}" + "x" * 5000 for number in range(60)]
    writer = open_writer(settings.override(stream_log_bytes=100_000), name)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    await writer.done(whole("".join(pieces)))
    await asyncio.to_thread(answered, client_of_redis, name.task_id, {"text": "".join(pieces)})
    stream = client.resume(name.task_id)
    with pytest.raises(StreamGap) as caught:
        _ = [chunk async for chunk in stream]
    assert (caught.value.first, caught.value.last) == (1, stream.cursor)
    rest = "".join([chunk.text async for chunk in stream])
    assert rest
    assert "".join(pieces).endswith(rest)
    assert (await stream.acompletion()).text == "".join(pieces)
    assert sum(isinstance(event, Gap) for event in await _all(client, name, 0)) == 1


def test_a_task_that_did_not_stream_is_read_from_any_number(client: LLMClient, client_of_redis: redis.Redis):
    """All of its text comes at its end, under the same numbers whoever asks: reading on repeats nothing."""
    result = client.submit("A prompt.", use_cache=False)
    answered(client_of_redis, result.id)
    events = list(result.stream().events())
    assert [event.kind for event in events] == ["start", "chunk", "done"]
    for seq in range(3):
        assert [event.seq for event in result.stream(after=seq).events()] == numbers(events)[seq:]
    assert result.stream(after=2).completion().text == "The answer."


async def test_a_stream_that_waits_is_waited_for(settings: Settings, client: LLMClient, name: StreamName):
    """Known before its task begins: who resumes it early gets all of it, in any order of coming."""
    await RESERVE.arun(async_client(settings.results, settings.redis_timeout_s), [name.state_key], [60])
    early = asyncio.create_task(_all(client, name, 0))
    await until_quiet()
    assert not early.done()
    writer = open_writer(settings, name)
    writer.write("one")
    await writer.done(whole("one"))
    assert text_of(await asyncio.wait_for(early, 10)) == "one"


async def test_a_thousand_readers_use_one_connection(
    settings: Settings, client: LLMClient, name: StreamName, client_of_redis: redis.Redis
):
    """In one event loop, all of them get all of it over one subscription."""
    writer = open_writer(settings, name)
    readers = [asyncio.create_task(_all(client, name, 0)) for _ in range(1000)]
    for number in range(20):
        writer.write(f"{number}, ")
        await asyncio.sleep(0.01)
    await until_quiet()
    assert client_of_redis.pubsub_numsub(name.key) == [(name.key.encode(), 1)]
    await writer.done(whole(writer.text))
    texts = [text_of(events) for events in await asyncio.wait_for(asyncio.gather(*readers), 60)]
    assert texts == [writer.text] * 1000


async def test_a_reader_that_stops_reading_delays_nobody(settings: Settings, client: LLMClient, name: StreamName):
    """What waits for it is bounded; when it goes on, it gets all of it from the log."""
    slow = client.resume(name.task_id)
    writer = open_writer(settings.override(stream_coalesce_ms=0), name)
    await until_quiet()
    seen = [await anext(slow.events().__aiter__())]
    quick = asyncio.create_task(_all(client, name, 0))
    for number in range(2000):
        writer.write(f"{number}, ")
        await asyncio.sleep(0)
    await writer.done(whole(writer.text))
    assert text_of(await asyncio.wait_for(quick, 20)) == writer.text
    seen += [event async for event in slow.events()]
    assert numbers(seen) == list(range(1, len(seen) + 1))
    assert text_of(seen) == writer.text


async def test_cut_connections_lose_nothing(settings: Settings, client: LLMClient, name: StreamName):
    """All subscriptions are killed again and again while twenty streams are written and read."""
    names = [StreamName(name.tenant, f"{name.task_id}-{number}") for number in range(20)]
    text = "".join(f"{number} ßあ👩‍👩‍👧, " for number in range(100))
    readers = [asyncio.create_task(_hopping(client, settings, one)) for one in names for _ in range(5)]
    killing = asyncio.create_task(_kill(settings))
    await asyncio.gather(*(_write(settings, one, text) for one in names))
    readers += [asyncio.create_task(_hopping(client, settings, one)) for one in names]
    for events in await asyncio.wait_for(asyncio.gather(*readers), 60):
        assert numbers(events) == list(range(1, len(events) + 1))
        assert text_of(events) == text
    killing.cancel()


async def _write(settings: Settings, name: StreamName, text: str) -> None:
    writer = open_writer(settings, name)
    for start in range(0, len(text), len(text) // 100):
        writer.write(text[start : start + len(text) // 100])
        await asyncio.sleep(0.01)
    await writer.done(whole(text))


async def _kill(settings: Settings) -> None:
    while True:
        await asyncio.sleep(0.2)
        await async_client(settings.results, 2.0).client_kill_filter(_type="pubsub")


async def _hopping(client: LLMClient, settings: Settings, name: StreamName) -> list[Any]:
    """Read to the end, leaving three times on the way."""
    events: list[Any] = []
    await RESERVE.arun(async_client(settings.results, settings.redis_timeout_s), [name.state_key], [60])
    while not events or not isinstance(events[-1], Done):
        async with client.resume(name.task_id, events[-1].seq if events else 0) as stream:
            async for event in stream.events():
                events.append(event)
                if len(events) in (2, 7, 15):
                    break
    return events


async def _all(client: LLMClient, name: StreamName, after: int) -> list[Any]:
    return [event async for event in client.resume(name.task_id, after).events()]


async def test_who_cancels_a_task_that_waits_ends_its_readers(client: LLMClient, prompt: str):
    """No worker is needed for that."""
    stream = await client.astream(prompt)
    reading = asyncio.create_task(_all(client, StreamName(client.settings.tenant, stream.id), 0))
    await until_quiet()
    await stream.acancel()
    (last,) = await asyncio.wait_for(reading, 10)
    assert isinstance(last, Cancelled)


async def test_who_waits_for_redis_can_be_cancelled_at_any_moment(settings: Settings):
    """No cancellation is forgotten, whatever redis-py does just then: a reader that left would read on for ever."""
    client = async_client(settings.results, settings.redis_timeout_s)

    async def ask_for_ever() -> None:
        while True:
            await client.get("something")

    for turns in [*range(40)] * 5:
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        ended, _ = await asyncio.wait([asking], timeout=10)
        while not asking.done():
            asking.cancel()
            await asyncio.sleep(0.001)
        assert ended, f"a cancellation was forgotten after {turns} turns of the loop"
