"""From documents to pieces that fit: nothing lost, order kept, nothing above the limit, cut at joints."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks import Document, Section, document_chunks
from kagura_tasks.errors import InvalidRequest
from kagura_tasks.files.chunking import stable_chunks


def characters(text: str) -> int:
    return len(text)


def words(text: str) -> int:
    """Tokens that do not add up as texts do: two pieces of a word are a token each."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def utf8(text: str) -> int:
    """A character may be more than one token."""
    return len(text.encode("utf-8", "surrogatepass"))


def document_of(text: str, starts: list[int] | None = None) -> Document:
    places = sorted({start for start in starts or [] if start < len(text)})
    ends = [*places[1:], len(text)]
    sections = [Section(kind="heading", title=str(a), start=a, end=b) for a, b in zip(places, ends, strict=False)]
    return Document(
        path="a",
        media_type="text/plain",
        size_bytes=1,
        sha256="0" * 64,
        loader="t/1",
        text=text,
        sections=tuple(sections),
    )


texts = st.text(st.sampled_from("ab .!?\n\n。é😀"), max_size=200)


@given(
    text=texts,
    starts=st.lists(st.integers(0, 200), max_size=10),
    max_tokens=st.integers(1, 40),
    count=st.sampled_from([characters, words, utf8]),
    keep_sections=st.booleans(),
)
def test_nothing_is_lost_and_nothing_is_above_the_limit(text, starts, max_tokens, count, keep_sections):
    """The pieces one after the other are the text; one above the limit is a single character."""
    document = document_of(text, starts)
    chunks = list(document_chunks(document, max_tokens, count, keep_sections=keep_sections))
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert text[chunk.start :].startswith(chunk.text)
        assert count(chunk.text) <= max_tokens or len(chunk.text) == 1
        within = [one for one in document.sections if chunk.start < one.start < chunk.start + len(chunk.text)]
        assert not (keep_sections and within)


@pytest.mark.parametrize(
    ("text", "max_tokens", "pieces"),
    [
        ("one two three", 100, ["one two three"]),
        ("a a.\n\nb b.\n\nc c.", 14, ["a a.\n\nb b.\n\n", "c c."]),
        ("a a.\n\nb b. b b.\nb b.", 12, ["a a.\n\n", "b b. b b.\n", "b b."]),
        ("One two. Three four. Five", 12, ["One two. ", "Three four. ", "Five"]),
        ("一二。三四。五", 4, ["一二。", "三四。五"]),
        ("one two three", 8, ["one two ", "three"]),
        ("abcdefgh ij", 3, ["abc", "def", "gh ", "ij"]),
    ],
)
def test_the_coarsest_joint_that_fits_is_taken(text: str, max_tokens: int, pieces: list[str]):
    """A paragraph before a line, a line before a sentence, a sentence before a word, a word before a character."""
    assert [chunk.text for chunk in document_chunks(document_of(text), max_tokens, characters)] == pieces


def test_sections_that_fit_together_stay_together():
    """A piece is as long as it can be, and says where it begins."""
    document = document_of("aaaa bbbb cccc dddd ", [0, 5, 10, 15])
    chunks = list(document_chunks(document, 12, characters))
    assert [(chunk.text, chunk.title, chunk.start) for chunk in chunks] == [
        ("aaaa bbbb ", "0", 0),
        ("cccc dddd ", "10", 10),
    ]


def test_a_change_in_one_section_changes_its_own_pieces_alone():
    """So that the answers for all others are still remembered."""
    parts = [f"# Part {number}\n\n{'text and more. ' * number}\n\n" for number in range(8)]

    def pieces(parts: list[str]) -> list[str]:
        starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
        document = document_of("".join(parts), starts)
        return [chunk.text for chunk in document_chunks(document, 60, characters, keep_sections=True)]

    new = parts[3] + "And now for something longer than before. " * 3 + "\n\n"
    before, after = pieces(parts), pieces([*parts[:3], new, *parts[4:]])
    assert set(before) - set(after) <= set(pieces([parts[3]]))
    assert set(after) - set(before) <= set(pieces([new]))
    assert set(after) - set(before)


def test_counting_is_not_done_for_each_character():
    """Counting tokens takes time: a text of a megabyte is counted some hundred times over, not a million."""
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text)

    text = "some words of a line\n" * 50_000
    pieces = list(document_chunks(document_of(text), 10_000, count))
    assert len(pieces) == 106
    assert sum(counted) < 40 * len(text)


def test_no_text_has_no_piece():
    """And a limit of nothing is a mistake."""
    assert list(document_chunks(document_of(""), 5, characters)) == []
    with pytest.raises(InvalidRequest, match="max_tokens is 0"):
        list(document_chunks(document_of("a"), 0, characters))


@given(
    text=texts,
    starts=st.lists(st.integers(0, 200), max_size=12),
    levels=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    max_tokens=st.integers(1, 40),
)
def test_stable_pieces_are_the_whole_text_within_the_limit(text, starts, levels, max_tokens):
    """In order, with their places; one above the limit is a single character."""
    chunks = list(stable_chunks(with_levels(document_of(text, starts), levels), max_tokens, characters))
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(text[chunk.start :].startswith(chunk.text) for chunk in chunks)
    assert all(len(chunk.text) <= max_tokens for chunk in chunks)


@given(
    sizes=st.lists(st.integers(5, 60), min_size=2, max_size=30),
    levels=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    max_tokens=st.integers(20, 200),
    data=st.data(),
)
def test_a_change_within_a_section_changes_one_stable_piece(sizes, levels, max_tokens, data):
    """Where it keeps its length, and its section fits into a piece."""
    sections = [chr(ord("a") + number % 26) * size for number, size in enumerate(sizes)]
    changed = data.draw(st.integers(0, len(sections) - 1))
    before = pieces_of(sections, levels, max_tokens)
    after = pieces_of([*sections[:changed], "#" * sizes[changed], *sections[changed + 1 :]], levels, max_tokens)
    different = sum(one != other for one, other in zip(before, after, strict=True))
    assert different == 1 or sizes[changed] > max_tokens


def test_a_longer_section_leaves_the_pieces_of_others_as_they_were():
    """Joints are where sections are, however long these are: nothing behind it moves."""
    sections = [letter * 90 for letter in "abcdefgh"]
    before = pieces_of(sections, [1] * 8, 100)
    sections[2] = "c" * 97
    after = pieces_of(sections, [1] * 8, 100)
    assert [one for one in after if one not in before] == ["c" * 97]


def test_stable_pieces_begin_at_the_coarsest_headings():
    """A chapter that fits is whole; one that does not is cut at its own headings."""
    sections = ["one" * 10, "two" * 3, "sub" * 4, "two" * 4, "three" * 2]
    assert pieces_of(sections, [1, 2, 2, 1, 2], 45) == [
        "".join(sections[:1]),
        "".join(sections[1:3]),
        "".join(sections[3:]),
    ]


def test_a_thousand_nested_headings_are_cut():
    """Each deeper than the one before: nothing here is recursive."""
    assert pieces_of(["x" * 10] * 2000, list(range(1, 2001)), 10) == ["x" * 10] * 2000


def with_levels(document: Document, levels: list[int]) -> Document:
    sections = [one.model_copy(update={"level": level}) for one, level in zip(document.sections, levels, strict=False)]
    return document.model_copy(update={"sections": tuple(sections)})


def pieces_of(sections: list[str], levels: list[int], max_tokens: int) -> list[str]:
    starts = [sum(map(len, sections[:number])) for number in range(len(sections))]
    document = with_levels(document_of("".join(sections), starts), levels)
    return [chunk.text for chunk in stable_chunks(document, max_tokens, characters)]
