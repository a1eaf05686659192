"""From a document to pieces that fit a model, cut where the text itself has joints. Nothing is lost or said twice."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pydantic import Field

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.files.documents import Document
from kagura_tasks.schemas import Wire

#: Ends of paragraphs, lines, sentences and words: the coarser joint is always the better one.
_JOINTS: Final = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?])\s+|(?<=[。！？])"),
    re.compile(r"\s+"),
)

_FIRST_LOOK_CHARS: Final = 256


class DocumentChunk(Wire):
    """A piece of a document's text.

    Attributes:
        path: The document's.
        index: Which piece it is, from 0.
        text: The piece. All pieces one after the other are the document's text.
        start: Where it begins in the text, in characters.
        title: The title of the section that it begins in.
    """

    path: str
    index: int = Field(ge=0)
    text: str
    start: int = Field(ge=0)
    title: str = ""


def document_chunks(
    document: Document, max_tokens: int, count_tokens: Callable[[str], int], *, keep_sections: bool = False
) -> Iterator[DocumentChunk]:
    """The document's text in pieces of at most `max_tokens`, each as long as it can be.

    A piece ends with a section if one ends within it, else with a paragraph, a line, a sentence, a word. A word that is
    too long by itself is cut between characters; only a single character may then be above the limit.

    Args:
        document: The document. One without text has no piece.
        max_tokens: The most tokens of a piece.
        count_tokens: How many tokens a text has.
        keep_sections: No piece has text of two sections: a change in one section changes its own pieces alone.

    Raises:
        InvalidRequest: `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {max_tokens}: a piece has at least one")
    text, starts = document.text, [section.start for section in document.sections]
    joints = [starts, *([found.end() for found in joint.finditer(text)] for joint in _JOINTS)]
    start = index = 0
    while start < len(text):
        place = bisect_right(starts, start)
        stop = starts[place] if keep_sections and place < len(starts) else len(text)
        end = _end(text, start, stop, joints, lambda piece: count_tokens(piece) <= max_tokens)
        title = document.sections[place - 1].title if place else ""
        yield DocumentChunk(path=document.path, index=index, text=text[start:end], start=start, title=title)
        start, index = end, index + 1


def _end(text: str, start: int, stop: int, joints: Sequence[Sequence[int]], fits: Callable[[str], bool]) -> int:
    """Where the piece that begins at `start` ends: `stop` if all of it fits, else the last of the best joints."""

    def fits_until(end: int) -> bool:
        return fits(text[start:end])

    reach = _reach(start, stop, fits_until)
    for ends in joints:
        candidates = ends[bisect_right(ends, start) : bisect_right(ends, reach)]
        candidates = [*candidates, stop] if reach == stop else candidates
        if (found := _last_fitting(candidates, fits_until)) is not None:
            return found
    return _last_fitting(range(start + 1, reach + 1), fits_until) or start + 1


def _reach(start: int, stop: int, fits: Callable[[int], bool]) -> int:
    """An end beyond which nothing fits: whole documents are not counted for each of their pieces."""
    length = _FIRST_LOOK_CHARS
    while start + length < stop and fits(start + length):
        length *= 2
    return min(start + length, stop)


def _last_fitting(ends: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The last end that fits, found in steps that double and then halve: counting tokens is what takes time."""
    if not ends or not fits(ends[0]):
        return None
    low, step = 0, 1
    while low + step < len(ends) and fits(ends[low + step]):
        low, step = low + step, step * 2
    high = min(low + step, len(ends))
    while high - low > 1:
        middle = (low + high) // 2
        if fits(ends[middle]):
            low = middle
        else:
            high = middle
    return ends[low]
