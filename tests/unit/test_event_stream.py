"""Server-sent events out of bytes: what counts is the bytes, never how they were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.providers.event_stream import EventStream, EventTooLarge


def events_in(*parts: bytes, limit: int = 1000) -> list[bytes]:
    stream = EventStream(limit)
    return [event for part in parts for event in stream.feed(part)]


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\ndata:  b \n\n", [b"a", b" b "]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": comment\nevent: e\nid: 1\nretry: 5\ndata: a\nwhatever\n\n", [b"a"]),
        (b"\n\n\n: only a comment\n\nevent: nothing\n\n", []),
        (b"data: a\n", []),
        (b"data: a\n\ndata: b", [b"a"]),
        (b"data : a\n\ndatax: b\n\n data: c\n\n", []),
        ("data: 日\u2028本\x0b\x85\n\n".encode(), ["日\u2028本\x0b\x85".encode()]),
        (b"data: \x85\x1c\x0c\n\n", [b"\x85\x1c\x0c"]),
    ],
    ids=str,
)
def test_what_an_event_is(sent: bytes, events: list[bytes]):
    """Lines that begin with data, up to an empty line; all other kinds of lines are passed over."""
    assert events_in(sent) == events
    assert events_in(*(sent[at : at + 1] for at in range(len(sent)))) == events


ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.binary(max_size=12).map(lambda text: b"data: " + text.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from([b"", b"", b":", b"data:", b"data", b"event: x", b"\xef\xbb\xbf", "data: 🎴".encode()]),
)
STREAMS = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=20).map(b"".join)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200)))
def test_no_cut_changes_the_events(stream: bytes, cuts: list[int]):
    """Wherever the parts begin and end."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parts = [stream[begin:end] for begin, end in pairwise(places)]
    assert events_in(*parts) == events_in(stream)


@pytest.mark.parametrize(
    "parts",
    [[b"data: " + b"x" * 1000], [b"data: "] + [b"x"] * 1000, [b"data: x\n"] * 501, [b"data:\n"] * 1001, [b":"] * 501],
    ids=["a line", "a line in parts", "many lines", "many empty lines", "a comment"],
)
def test_an_event_has_a_largest_size(parts: list[bytes]):
    """So that no server fills the memory."""
    with pytest.raises(EventTooLarge):
        events_in(*parts)


def test_any_number_of_events_fits():
    """The size is that of one event, and what was given is forgotten; so are comments."""
    assert len(events_in(*[b": comment", b"\ndata: x\n\ndata"] * 1000)) == 1000
