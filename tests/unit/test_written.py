"""An answer while it is written: pieces in, text and calls of tools out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.errors import RequestRefused
from kagura_tasks.providers.written import Calls, Written

LOOK = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
LISTEN = {"id": "2", "type": "function", "function": {"name": "listen", "arguments": "{}"}}


def handed_over(pieces: list[str]) -> list[str]:
    out: list[str] = []
    written = Written("m", out.append)
    for piece in pieces:
        written.add_text(piece)
    written.end()
    assert written.text == "".join(out)
    return out


def halves(text: str) -> str:
    """As JSON's escapes give it: characters beyond the 16-bit ones are two."""
    units = text.encode("utf-16-le")
    return "".join(chr(int.from_bytes(units[at : at + 2], "little")) for at in range(0, len(units), 2))


@given(st.text(), st.lists(st.integers(0, 50)))
def test_text_is_put_together_from_halves_of_characters(text: str, cuts: list[int]):
    """Wherever it was cut, also in the middle of an emoji."""
    units = halves(text)
    places = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    pieces = [units[begin:end] for begin, end in pairwise(places)]
    assert "".join(handed_over([piece for piece in pieces if piece])) == text


@given(st.lists(st.text(st.characters(), min_size=1)))
def test_what_is_handed_over_can_be_written_down(pieces: list[str]):
    """Text without lone halves, and never an empty piece."""
    out = handed_over(pieces)
    assert "" not in out
    "".join(out).encode()


def test_a_text_is_handed_over_as_it_came():
    """Nothing waits that is whole."""
    assert handed_over(["a", "é", "🎴", "\ud83c", "\udfb4"]) == ["a", "é", "🎴", "🎴"]


@pytest.mark.parametrize(
    "deltas",
    [
        [{**LOOK, "index": 0}, {**LISTEN, "index": 1}],
        [{**LOOK, "index": 1}, {**LISTEN, "index": 0}],
        [LOOK, LISTEN],
        [{**LOOK, "index": 0}, {**LISTEN, "index": 0}],
        [
            {**LOOK, "function": {"name": "look", "arguments": '{"at"'}},
            {"function": {"arguments": ": 1}"}},
            {**LISTEN, "function": {"name": "listen"}},
            {"function": {"arguments": "{}"}},
        ],
        [
            {"index": 0, "id": "1", "function": {"name": "look"}},
            {"index": 0, "function": None},
            {"index": 1, **LISTEN},
            {"index": 0, "id": "other", "function": {"name": None, "arguments": '{"at": 1}'}},
        ],
    ],
    ids=["by index", "in their order", "no index", "one index for both", "no index, in pieces", "an id for each piece"],
)
def test_pieces_of_calls_find_each_other(deltas: list[dict]):
    """By index; without one, by the name with which each begins. Servers differ in what they repeat."""
    calls = Calls()
    for delta in deltas:
        calls.add(delta)
    assert calls.to_json() == [LOOK, LISTEN]


def test_endless_arguments_are_given_up(monkeypatch: pytest.MonkeyPatch):
    """They count as text does, and so does a great number of empty ones."""
    monkeypatch.setattr("kagura_tasks.providers.written.MAX_CHARACTERS", 100)
    for arguments in ("x" * 60, ""):
        written = Written("m", lambda _: None)
        with pytest.raises(RequestRefused):
            written.add_calls([{"index": 0, "function": {"name": "look", "arguments": arguments}}] * 101)
