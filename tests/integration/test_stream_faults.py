"""Answers that break while they are written: never a joined text, never a part that is remembered."""

from __future__ import annotations

from typing import Any

import pytest

from kagura_tasks import LLMClient, Settings
from kagura_tasks.errors import RequestRefused
from kagura_tasks.streaming.events import Chunk, Failed, Reset
from tests.support.llm import StubServer
from tests.support.stream_places import numbers, text_of
from tests.support.workers import Fleet

#: A short answer of so many pieces, none of which is like another.
PIECES = 5
FIRST = "".join(f"{number} of the first try; " for number in range(PIECES))
SECOND = "".join(f"{number} of the second try; " for number in range(PIECES))

BREAKS: dict[str, dict[str, Any]] = {
    "cut": {},
    "stall": {},
    "error": {"error": {"message": "overloaded", "type": "server_error", "code": 503}},
}


@pytest.mark.parametrize("kind", BREAKS)
def test_an_answer_that_breaks_after_any_chunk_begins_anew(
    settings: Settings, fleet: Fleet, stub: StubServer, prompt: str, kind: str
):
    """Cut, stalled or failed after each number of its chunks: readers see a reset and one whole text, and what is
    remembered is that."""
    client = LLMClient(settings)
    stub.script(text=SECOND, chunks=PIECES)
    for k in range(PIECES + 1):
        stub.script(when=f"Break {k}.", times=1, text=FIRST, chunks=PIECES, **{f"{kind}_after": k}, **BREAKS[kind])
    streams = [client.stream(f"{prompt} Break {k}.", timeout_s=1.0) for k in range(PIECES + 1)]
    for k, stream in enumerate(streams):
        events = list(stream.events())
        assert numbers(events) == list(range(1, len(events) + 1)), k
        texts = _texts_by_attempt(events)
        assert FIRST.startswith(texts.pop(1)), k
        assert (list(texts.values()), stream.completion().text) == ([SECOND], SECOND), k
        assert text_of(events) == SECOND, k
        assert stream.completion().attempts == 2, k
    again = [client.complete(f"{prompt} Break {k}.", timeout_s=1.0) for k in range(PIECES + 1)]
    assert {(one.text, one.cached) for one in again} == {(SECOND, True)}
    assert stub.count() == 2 * (PIECES + 1)


def test_a_permanent_failure_in_the_middle_ends_the_stream(
    fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str
):
    """Its `error` event is the exception that `get` raises, too; nothing is remembered."""
    refusal = {"message": "no", "type": "invalid_request_error", "code": 400}
    stub.script(text=FIRST, chunks=PIECES, chunk_delay_s=0.01, error_after=3, error=refusal, times=1)
    result = client.submit(prompt, stream=True)
    *_, last = list(result.stream().events())
    assert isinstance(last, Failed)
    with pytest.raises(RequestRefused) as from_get:
        result.get(timeout_s=10)
    with pytest.raises(RequestRefused) as from_chunks:
        list(client.resume(result.id))
    assert str(from_get.value) == str(from_chunks.value) == str(last.error()) == last.message
    assert not last.retryable
    assert not client.complete(prompt).cached


def _texts_by_attempt(events: list[Any]) -> dict[int, str]:
    texts: dict[int, str] = {1: ""}
    for event in events:
        if isinstance(event, Chunk | Reset):
            texts[event.attempt] = texts.get(event.attempt, "") + getattr(event, "text", "")
    return texts
