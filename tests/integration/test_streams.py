"""Text that arrives while the model writes it: real workers, a real provider, real pub/sub."""

from __future__ import annotations

from kagura_tasks import LLMClient
from kagura_tasks.streaming.events import Chunk, Done, Start
from tests.support.llm import StubServer
from tests.support.workers import Fleet


def test_text_arrives_in_chunks_and_is_the_providers(fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str):
    """Each chunk has the next number, and joined they are what the model wrote, byte for byte."""
    text = "Straße, 日本語, 👩‍👩‍👧 and\nnew lines. " * 5
    stub.script(text=text, chunks=40, chunk_delay_s=0.005)
    stream = client.stream(prompt)
    events = list(stream.events())
    assert isinstance(events[0], Start)
    assert isinstance(events[-1], Done)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len([event for event in events if isinstance(event, Chunk)]) > 3
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == text
    completion = stream.completion()
    assert (completion.text, completion.finish_reason, completion.cached) == (text, "stop", False)


async def test_async_for_reads_the_same(fleet: Fleet, stub: StubServer, client: LLMClient, prompt: str):
    """In a coroutine, nothing blocks."""
    stub.script(text="one two three", chunks=3)
    assert "".join([chunk.text async for chunk in client.stream(prompt)]) == "one two three"
