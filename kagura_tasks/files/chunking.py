"""From a document to pieces that fit a model, cut where the text itself has joints. Nothing is lost or said twice."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pydantic import Field

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.files.documents import Document, Section
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


def stable_chunks(document: Document, max_tokens: int, count_tokens: Callable[[str], int]) -> Iterator[DocumentChunk]:
    """The document's text in pieces of at most `max_tokens`, of which a change of the text changes as few as can be.

    All of it is one piece where it fits. Else it is halved at the joint between sections that is the coarsest, and of
    these the nearest to the middle, until each half fits or is a single section; only then `document_chunks` cuts.
    Where the joints are does not depend on how long sections are: a change in one leaves all pieces without it as they
    were, unless what fitted into one piece does not fit any more.

    Raises:
        InvalidRequest: `max_tokens` is below 1.
    """
    index = 0
    for block in _blocks(document, lambda start, end: count_tokens(document.text[start:end]) <= max_tokens):
        start, end = block[0].start, block[-1].end
        alone = document.model_copy(update={"text": document.text[start:end], "sections": ()})
        for chunk in document_chunks(alone, max_tokens, count_tokens):
            yield chunk.model_copy(update={"index": index, "start": start + chunk.start, "title": block[0].title})
            index += 1


def _blocks(document: Document, fits: Callable[[int, int], bool]) -> Iterator[list[Section]]:
    """Runs of sections that fit, or are one; on a stack, since a thousand headings may be nested in each other."""
    waiting = [sections] if (sections := _all_sections(document)) else []
    while waiting:
        block = waiting.pop()
        if len(block) == 1 or fits(block[0].start, block[-1].end):
            yield block
        else:
            joint = _coarsest_joint(block)
            waiting += [block[joint:], block[:joint]]


def _all_sections(document: Document) -> list[Section]:
    """The sections, and in front of them what stands before the first."""
    first = document.sections[0].start if document.sections else len(document.text)
    before = [Section(kind="heading", start=0, end=first)] if first else []
    return [*before, *document.sections]


def _coarsest_joint(block: Sequence[Section]) -> int:
    return min(range(1, len(block)), key=lambda place: (block[place].level, abs(2 * place - len(block))))


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
