"""Whoever stops reading, and lets the event loop end, leaves nothing behind: no error in a log, no open connection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import Any

import pytest

from kagura_tasks import LLMCache, LLMClient
from kagura_tasks.settings import Settings
from kagura_tasks.streams import TextStream
from tests.support.lanes import MARKS
from tests.support.llm import StubServer

pytestmark = MARKS

#: What can be read piece by piece, while it comes.
READ: dict[str, Callable[[LLMClient, str], AsyncIterable[object]]] = {
    "the text of a stream": lambda client, prompt: client.stream(prompt),
    "the events of a stream": lambda client, prompt: client.stream(prompt).events(),
    "plain text": lambda client, prompt: TextStream(client.stream(prompt)),
    "a stream that was found": lambda client, prompt: client.resume(client.submit(prompt, stream=True).id),
    "a map": lambda client, prompt: client.map([prompt, f"slow {prompt}"]),
    "a map in order": lambda client, prompt: client.map([prompt, f"slow {prompt}"]).in_order(),
}


@pytest.fixture(params=["workers answer", "the process remembers", "the process answers"])
def client(request: pytest.FixtureRequest, settings: Settings) -> LLMClient:
    """Between the reader and Redis are others, who read as well."""
    if request.param == "the process answers":
        return request.getfixturevalue("inline_client")
    return LLMClient(settings, cache=LLMCache("memory") if request.param == "the process remembers" else None)


@pytest.mark.parametrize("held", [True, False], ids=["held", "dropped"])
@pytest.mark.parametrize("what", READ)
@pytest.mark.usefixtures("fleet")
def test_a_loop_can_end_while_something_is_read(
    stub: StubServer, client: LLMClient, prompt: str, caplog: pytest.LogCaptureFixture, what: str, held: bool
):
    """After the first piece, as with `break`; whether the reader is still referred to, or is gone."""
    stub.script(when="slow", text="one two three", chunks=3, delay_s=1)
    stub.script(text="one two three", chunks=3, chunk_delay_s=0.3)
    kept = asyncio.run(_first_piece(partial(READ[what], client, prompt)))
    kept = kept if held else None
    _ = gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


async def _first_piece(read: Callable[[], AsyncIterable[object]]) -> tuple[Any, ...]:
    coming = await asyncio.to_thread(read)
    pieces = aiter(coming)
    return (coming, pieces, await anext(pieces))
