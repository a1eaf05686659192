"""What every place for streams promises its writers and readers: Redis, and the memory of one process."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kagura_tasks import Settings
from kagura_tasks.errors import RequestRefused
from kagura_tasks.schemas import Usage
from kagura_tasks.settings import RedisUrl
from kagura_tasks.streaming.events import Cancelled, Chunk, Done, Ending, Event, Failed, Gap, Reset, Start
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.writer import LONGEST_TEXT, StreamTaken
from tests.support.stream_places import Place, numbers, text_of, until_quiet, whole

#: Characters that UTF-8 has: any but halves of a pair.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SHARED = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAST_LOG_BYTES = 100_000


@pytest.fixture(params=["redis", "local"])
def place(request: pytest.FixtureRequest, redis_url: RedisUrl) -> Place:
    return Place(Settings(redis_url=redis_url, stream_log_bytes=LEAST_LOG_BYTES), request.param == "local")


@pytest.fixture
def name() -> StreamName:
    return StreamName("test", uuid4().hex)


async def test_events_are_numbered_and_the_last_is_an_end(place: Place, name: StreamName):
    """From 1 on, and none is left out; joined, the chunks are what was written."""
    writer = place.outlet.open(name)
    reading = asyncio.create_task(place.read(name))
    for piece in ("one", " two", " three"):
        writer.write(piece)
        await asyncio.sleep(0)
    await writer.done(whole("one two three"))
    events = await reading
    assert numbers(events) == list(range(1, len(events) + 1))
    assert isinstance(events[0], Start)
    assert isinstance(events[-1], Done)
    assert events[-1].completion(text_of(events)) == whole("one two three")


async def test_readers_that_come_early_late_and_after_the_end_read_the_same(place: Place, name: StreamName):
    """From any number on, each gets what is behind it, once."""
    early = asyncio.create_task(place.read(name))
    await asyncio.sleep(0)
    writer = place.outlet.open(name)
    writer.write("one")
    await until_quiet()
    late = asyncio.create_task(place.read(name))
    await asyncio.sleep(0)
    writer.write(" two")
    await writer.done(whole("one two"))
    events = await early
    assert await late == events == await place.read(name)
    for seq in range(len(events)):
        assert await place.read(name, seq) == events[seq:]
    assert await place.read(name, len(events)) == []
    assert await place.read(name, 10**9) == events[-1:]


async def test_a_long_text_is_cut_into_events(place: Place, name: StreamName):
    """Whatever a provider sends in one piece, no event is longer than what a reader takes."""
    text = "日本語" * LONGEST_TEXT
    events_of_text = asyncio.create_task(place.read(name))
    writer = place.outlet.open(name)
    writer.write(text)
    await writer.done(whole(text))
    events = await events_of_text
    assert text_of(events) == text
    assert max(len(event.text) for event in events if isinstance(event, Chunk)) == LONGEST_TEXT


async def test_a_further_attempt_begins_with_a_reset(place: Place, name: StreamName):
    """What came before it is void, the numbers go on, and the attempt's is higher."""
    writer = place.outlet.open(name)
    writer.write("half an ans")
    await until_quiet()
    writer.restart()
    writer.write("An answer.")
    await writer.done(whole("An answer."))
    events = await place.read(name)
    assert numbers(events) == list(range(1, len(events) + 1))
    assert [event.attempt for event in events if isinstance(event, Reset)] == [2]
    assert {event.attempt for event in events} == {1, 2}
    assert text_of(events) == "An answer."


async def test_who_was_overtaken_writes_nothing_more(place: Place, name: StreamName):
    """Another attempt has begun elsewhere: the first writer is told, and nothing of its text appears."""
    first = place.outlet.open(name)
    first.write("from the first")
    await until_quiet()
    second = place.outlet.open(name)
    await until_quiet()
    first.write(", much too late")
    await until_quiet()
    with pytest.raises(StreamTaken):
        first.write("!")
    await first.done(whole("from the first, much too late"))
    second.write("From the second.")
    await second.done(whole("From the second."))
    events = await place.read(name)
    assert text_of(events) == "From the second."
    assert "late" not in "".join(event.text for event in events if isinstance(event, Chunk))


@pytest.mark.parametrize("kind", [Failed, Cancelled])
async def test_a_stream_without_an_answer_says_why(place: Place, name: StreamName, kind: type[Event]):
    """Its end is an error that can be raised again, or what was used until it was cancelled."""
    error = RequestRefused("no", "m", 400)
    writer = place.outlet.open(name)
    if kind is Failed:
        await writer.failed(error)
    else:
        await writer.cancelled(Usage(total_tokens=5))
    last = (await place.read(name))[-1]
    assert isinstance(last, kind)
    if isinstance(last, Failed):
        assert (type(last.error()), str(last.error())) == (RequestRefused, str(error))
    if isinstance(last, Cancelled):
        assert last.usage.total_tokens == 5


async def test_a_stream_ends_once(place: Place, name: StreamName):
    """Whoever comes to write after the end changes nothing."""
    writer = place.outlet.open(name)
    await writer.done(whole(""))
    late = place.outlet.open(name)
    late.write("more")
    await late.failed(RequestRefused("no"))
    assert [event.kind for event in await place.read(name)] == ["start", "done"]


async def test_a_trimmed_log_says_so_once(place: Place, name: StreamName):
    """A late reader is told what is missing, and gets all the rest; a log is bounded in bytes."""
    pieces = [f"{number:05d}" + "x" * 5000 for number in range(60)]
    writer = place.outlet.open(name)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.001)
    await writer.done(whole("".join(pieces)))
    events = await place.read(name)
    gap, *rest = events
    assert isinstance(gap, Gap)
    assert (gap.first, gap.seq + 1) == (1, rest[0].seq)
    assert not any(isinstance(event, Gap) for event in rest)
    assert "".join(pieces).endswith(text_of(rest))
    assert LEAST_LOG_BYTES / 2 < sum(len(event.model_dump_json()) for event in rest) <= LEAST_LOG_BYTES


async def test_the_last_event_is_kept_however_large(place: Place, name: StreamName):
    """The end of a stream is never trimmed: a tool's arguments may be larger than the log."""
    arguments: dict[str, Any] = {"function": {"arguments": "x" * 2 * LEAST_LOG_BYTES}}
    writer = place.outlet.open(name)
    writer.write("Look.")
    await writer.done(whole("Look.").model_copy(update={"tool_calls": (arguments,)}))
    gap, done = await place.read(name)
    assert isinstance(gap, Gap)
    assert isinstance(done, Done)
    assert done.tool_calls == (arguments,)


async def test_a_silent_writer_says_that_it_lives(place: Place, name: StreamName):
    """Silence carries heartbeats, not further apart than was said."""
    place.settings = place.settings.override(stream_heartbeat_s=0.2)
    writer = place.outlet.open(name)
    events = await place.read(name, most=6)
    await writer.done(whole(""))
    beats = [event.at_ms for event in events if event.kind == "heartbeat"]
    assert len(beats) == 5
    assert max(later - earlier for earlier, later in pairwise(beats)) < 1000


async def test_what_is_said_while_a_moment_is_sent_is_sent_as_well(place: Place, name: StreamName):
    """Fifty writers that write, wait and end in any order all end: none is forgotten by the others' round trips."""
    names = [StreamName(name.tenant, f"{name.task_id}-{number}") for number in range(50)]

    async def tell(one: StreamName, number: int) -> None:
        writer = place.outlet.open(one)
        for step in range(20):
            writer.write("x" * (6000 if (step + number) % 3 == 0 else 3))
            await asyncio.sleep(0.001 * ((step * number) % 7))
        await writer.done(whole(writer.text))

    async with asyncio.timeout(30):
        await asyncio.gather(*(tell(one, number) for number, one in enumerate(names)))


@SHARED
@given(
    pieces=st.lists(st.one_of(TEXTS, st.just("x" * 5000)), max_size=12),
    pauses=st.lists(st.sampled_from([None, 0, 0.001, 0.025]), min_size=12, max_size=12),
    joins=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=4),
    restart=st.integers(0, 40),
)
async def test_any_interleaving_gives_the_same_text(
    place: Place, pieces: list[str], pauses: list[float | None], joins: list[tuple[int, int]], restart: int
):
    """Whenever readers come, leave and come back, each gets each event once, in order, and the writer's text."""
    name = StreamName("test", uuid4().hex)
    place.forget()
    writer = place.outlet.open(name)
    readers = [asyncio.create_task(_hop(place, name, 0, 1000))]
    written: list[str] = []
    for number, (piece, pause) in enumerate(zip(pieces, pauses, strict=False)):
        readers += [asyncio.create_task(_hop(place, name, 0, each)) for at, each in joins if at == number]
        if number == restart:
            writer.restart()
            written = []
        writer.write(piece)
        written.append(piece)
        if pause is not None:
            await asyncio.sleep(pause)
    text = "".join(written)
    await writer.done(whole(text))
    readers += [asyncio.create_task(_hop(place, name, 0, each)) for at, each in joins if at >= len(pieces)]
    async with asyncio.timeout(20):
        for events in await asyncio.gather(*readers):
            assert numbers(events) == list(range(1, len(events) + 1))
            assert text_of(events) == text
            assert isinstance(events[-1], Done)


async def _hop(place: Place, name: StreamName, after: int, each: int) -> list[Event]:
    """Read to the end, leaving after every so many events and coming back."""
    events: list[Event] = []
    while not events or not isinstance(events[-1], Ending):
        events += await place.read(name, events[-1].seq if events else after, each)
    return events
