"""What goes over the wire between a stream's writer, Redis and its readers: events, and the steps that append them."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kagura_tasks import Settings
from kagura_tasks.connections import async_client, sync_client
from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.settings import RedisUrl
from kagura_tasks.streaming.events import Chunk, Done, parse
from kagura_tasks.streaming.log import APPEND, BEGIN, StreamName
from kagura_tasks.streaming.outlet import StreamTerms
from kagura_tasks.streaming.publisher import append_args, begin_args
from kagura_tasks.streaming.writer import Claim, Events, Reply, StreamWriter
from tests.support.stream_places import Place, text_of, until_quiet, whole

#: Characters that UTF-8 has: any but halves of a pair.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture
def name() -> StreamName:
    return StreamName("test", uuid4().hex)


@given(TEXTS, st.integers(1, 2**53 - 1), st.integers(1, 1000))
def test_any_text_survives_the_wire(text: str, seq: int, attempt: int):
    """What is written is what is read, and bytes of another shape are none of ours."""
    event = Chunk(seq=seq, attempt=attempt, at_ms=0, text=text)
    assert parse(event.model_dump_json().encode()) == event


@given(st.one_of(st.binary(max_size=60), st.from_type(object).map(repr).map(str.encode)))
def test_garbage_is_no_event(payload: bytes):
    """Whatever comes, it is an event or nothing: never an error."""
    assert parse(payload) is None or TypeAdapter(Any).validate_json(payload)["kind"]


class _Silent:
    """An outlet that sends when it is told to."""

    def wake(self, writer: StreamWriter, *, urgent: bool) -> None:
        pass

    def close(self, writer: StreamWriter) -> None:
        pass


@given(st.lists(st.one_of(TEXTS, st.just(None), st.just("x" * 20_000)), max_size=30))
def test_coalescing_loses_and_reorders_nothing(pieces: list[str | None]):
    """However text is collected (None: sent now), the events' texts are the pieces, joined."""
    writer = StreamWriter(StreamName("t", "t"), _Silent(), "", 1, 4096)
    sent: list[bytes] = []
    for piece in [*pieces, None, None]:
        if piece is not None:
            writer.write(piece)
            continue
        while (step := writer.step()) is not None:
            assert writer.step() is step, "a step is the same until it is settled"
            if isinstance(step, Claim):
                writer.settle(Reply.OK, 1, 1)
            else:
                sent += step.payloads
                writer.settle(Reply.OK)
    events = [parse(one) for one in sent]
    assert [event.seq for event in events if event] == list(range(2, len(sent) + 2))
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == "".join(
        piece for piece in pieces if piece
    )


def test_a_step_that_is_sent_twice_is_done_once(redis_url: RedisUrl, name: StreamName):
    """The reply to the first time was lost: the second one gets the same, and nothing is there twice."""
    client, terms = sync_client(redis_url, 2.0), StreamTerms.from_settings(Settings(redis_url=redis_url))
    keys = [name.key, name.state_key, taken_key(name.task_id)]
    claim = begin_args(Claim("mine", 1, 0), terms)
    assert BEGIN.run(client, keys, claim) == BEGIN.run(client, keys, claim) == [1, 1]
    payloads = [Chunk(seq=seq, attempt=1, at_ms=0, text="x").model_dump_json().encode() for seq in (2, 3)]
    done = Done(seq=4, attempt=1, at_ms=0, model="m", finish_reason="stop").model_dump_json().encode()
    for step in (Events(1, 2, payloads[:1], False), Events(1, 2, payloads, False), Events(1, 4, [done], True)):
        for _ in range(2):
            assert APPEND.run(client, keys, append_args(step, terms)) == b"ok"
    assert [entry for entry, _ in client.xrange(name.key)] == [b"1-0", b"2-0", b"3-0", b"4-0"]
    assert APPEND.run(client, keys, append_args(Events(1, 5, payloads[:1], False), terms)) == b"ended"


def test_a_worker_whose_task_was_given_away_adds_nothing(redis_url: RedisUrl, name: StreamName):
    """Also while nobody else has begun it: from the moment on in which its message was taken."""
    client, terms = sync_client(redis_url, 2.0), StreamTerms.from_settings(Settings(redis_url=redis_url))
    keys = [name.key, name.state_key, taken_key(name.task_id)]
    assert BEGIN.run(client, keys, begin_args(Claim("mine", 1, 0), terms)) == [1, 1]
    client.set(taken_key(name.task_id), 1, ex=60)
    chunk = Chunk(seq=2, attempt=1, at_ms=0, text="x").model_dump_json().encode()
    assert APPEND.run(client, keys, append_args(Events(1, 2, [chunk], False), terms)) == b"taken"
    assert BEGIN.run(client, keys, begin_args(Claim("other", 2, 0), terms)) == [b"taken"]
    assert client.xlen(name.key) == 1


async def test_a_new_attempt_on_a_server_that_forgot_repeats_no_number(redis_url: RedisUrl, name: StreamName):
    """Whoever has read ten events of the first attempt does not take the second one's for them."""
    place = Place(Settings(redis_url=redis_url), is_local=False)
    writer = place.outlet.open(name)
    for _ in range(5):
        writer.write("first ")
        await until_quiet()
    before = await place.read(name, most=6)
    await async_client(redis_url, 2.0).delete(name.key, name.state_key)
    writer.restart()
    writer.write("second")
    await writer.done(whole("second"))
    events = await place.read(name, before[-1].seq)
    assert [event.kind for event in events] == ["reset", "chunk", "done"]
    assert text_of(events) == "second"
    assert [event.attempt for event in events] == [2, 2, 2]


async def test_another_workers_attempt_on_a_server_that_forgot_repeats_no_number(redis_url: RedisUrl, name: StreamName):
    """It cannot know how far the first one came: readers are told of a gap, and then get its text from the reset on."""
    place = Place(Settings(redis_url=redis_url), is_local=False)
    first = place.outlet.open(name)
    first.write("first")
    before = await place.read(name, most=2)
    first.leave()
    await async_client(redis_url, 2.0).delete(name.key, name.state_key)
    second = place.outlet.open(name, least_attempt=2)
    second.write("second")
    await second.done(whole("second"))
    events = await place.read(name, before[-1].seq)
    assert [event.kind for event in events] == ["gap", "reset", "chunk", "done"]
    assert text_of(events) == "second"


async def test_who_ends_while_others_are_being_sent_is_sent_next(redis_url: RedisUrl, name: StreamName):
    """A writer that had nothing to say when a round trip began is not forgotten where it has, when that ends."""
    place = Place(Settings(redis_url=redis_url, stream_coalesce_ms=100, stream_heartbeat_s=60), is_local=False)
    other = place.outlet.open(StreamName(name.tenant, f"{name.task_id}-other"))
    writer = place.outlet.open(name)
    for one in (writer, other):
        one.write("First.")
    await until_quiet()
    writer.write("This waits to be collected, ")
    writer.write("and this takes it along. " * 1000)
    other.write("Only this is there when the moment comes.")
    await until_quiet()
    async with asyncio.timeout(20):
        await async_client(redis_url, 2.0).execute_command("CLIENT", "PAUSE", 300)
        await asyncio.sleep(0.1)
        await writer.done(whole(writer.text))
    assert isinstance((await place.read(name))[-1], Done)
