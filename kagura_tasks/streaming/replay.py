"""The stream of an answer that is there already."""

from __future__ import annotations

import time

from kagura_tasks.schemas import Completion
from kagura_tasks.streaming.events import Chunk, Done, Event, Start, fields_of_completion
from kagura_tasks.streaming.writer import LONGEST_TEXT


def events_of(completion: Completion) -> list[Event]:
    """A whole stream: a start, the text, and a done."""
    text = completion.text
    pieces = [text[start : start + LONGEST_TEXT] for start in range(0, len(text), LONGEST_TEXT)]
    now_ms = int(time.time() * 1000)
    chunks = [Chunk(seq=seq, attempt=1, at_ms=now_ms, text=piece) for seq, piece in enumerate(pieces, 2)]
    done = Done(seq=len(pieces) + 2, attempt=1, at_ms=now_ms, **fields_of_completion(completion))
    return [Start(seq=1, attempt=1, at_ms=now_ms), *chunks, done]
