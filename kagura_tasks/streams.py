"""A text that arrives while the model writes it: one handle for synchronous and asynchronous readers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeGuard

from kagura_tasks.errors import InvalidRequest, ResultTimeout, StreamGap, StreamLost, StreamRestarted, TaskCancelled
from kagura_tasks.schemas import Completion
from kagura_tasks.sources import WAITING, AnswerSource
from kagura_tasks.streaming.events import Cancelled, Chunk, Done, Ending, Event, Failed, Gap, Lost, Reset, TextSoFar


class LLMStream:
    """The answer to a prompt, while it is written. Iterate it with `for`, or with `async for`, to get its chunks.

    What was read is not given again: a second loop goes on where the first one left. Leaving a loop does not cancel the
    task; `cancel` does. A chunk whose `attempt` is higher than that of the one before says that the model began anew,
    and that the text so far is void. Iterating raises what ended the stream without an answer (see `completion`), and
    StreamGap where text is missing; the next loop goes on behind that.

    Attributes:
        id: The task's id; with it, any process can `LLMClient.resume`.
        cursor: The number of the last event that was read.
        attempt: The try that it belonged to; 0 before there was one.
    """

    def __init__(self, task_id: str, source: AnswerSource, after: int = 0) -> None:
        """Take the task, where its events come from, and the number of the event behind which reading begins."""
        if type(after) is not int or not 0 <= after < 2**53:
            raise InvalidRequest("after: the number of an event, or 0")
        self.id = task_id
        self.cursor = after
        self.attempt = 0
        self._source = source
        self._ready: deque[Event] = deque()
        self._fetched = after
        self._is_over = self._is_fetching = False
        self._batches: AsyncGenerator[list[Event]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._text = TextSoFar(after)
        self._ending: Ending | None = None

    def events(self) -> Events:
        """Every event: text, heartbeats, new attempts, and how it ended. For `for`, and for `async for`."""
        return Events(self)

    def __iter__(self) -> Iterator[Chunk]:
        """The pieces of the text."""
        return (event for event in self.events() if is_text(event, self.id))

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The same, without blocking the event loop."""
        async for event in self.events():
            if is_text(event, self.id):
                yield event

    def completion(self, timeout_s: float | None = None) -> Completion:
        """The whole answer; reads the rest of the stream.

        Args:
            timeout_s: Seconds to wait at most; default: for as long as something is heard.

        Raises:
            ResultTimeout: No answer yet. The task goes on.
            ProviderError: The model's side failed; the class says how.
            TaskCancelled: The task was cancelled.
            StreamLost: No worker is running any more.
            StreamExpired: There is no such stream, or none any more.
            RedisUnreachable: Redis did not answer.
        """
        return WAITING.run(self.acompletion(timeout_s))

    async def acompletion(self, timeout_s: float | None = None) -> Completion:
        """The same, without blocking the event loop."""
        try:
            async with asyncio.timeout(timeout_s):
                async for event in self.events():
                    if not isinstance(event, Gap):
                        _ = is_text(event, self.id)
                return await self._whole(timeout_s)
        except TimeoutError as error:
            raise error if isinstance(error, ResultTimeout) else ResultTimeout(self.id, timeout_s or 0.0) from None

    def cancel(self) -> None:
        """End the task: a queued one is not started, a running call is closed. The stream ends with `cancelled`.

        Nothing happens where its end was read: the answer stays.
        """
        # The end of a stream is told a moment before the answer is stored.
        if self._ending is None:
            self._source.cancel()

    async def acancel(self) -> None:
        """The same, without blocking the event loop."""
        await asyncio.to_thread(self.cancel)

    def close(self) -> None:
        """Stop reading. The task goes on, and so may the reading: with another loop, or elsewhere with `resume`."""
        WAITING.run(self.aclose())

    async def aclose(self) -> None:
        """The same, without blocking the event loop."""
        batches, self._batches = self._batches, None
        # One that is running was interrupted just now, and ends by itself.
        if batches is not None and self._loop is asyncio.get_running_loop() and not self._is_fetching:
            await batches.aclose()

    def __enter__(self) -> Self:
        """For `with`: what is left of it is closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        """For `async with`."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See `aclose`."""
        await self.aclose()

    def __repr__(self) -> str:
        """The id and the cursor: the text may be long, and private."""
        return f"<LLMStream {self.id} at {self.cursor}>"

    async def fetch(self) -> bool:
        """Get more events ready, unless some are; whether there are any."""
        while not self._ready and not self._is_over:
            events = await self._next_batch()
            self._ready.extend(events)
            self._is_over = not events
        if not self._ready:
            await self.aclose()
        return bool(self._ready)

    def take(self) -> Event | None:
        """The next event that is ready."""
        if not self._ready:
            return None
        event = self._ready.popleft()
        self.cursor, self.attempt = max(self.cursor, event.seq), event.attempt
        self._text.note(event)
        if isinstance(event, Ending):
            self._ending, self._is_over = event, True
        return event

    async def _next_batch(self) -> list[Event]:
        loop = asyncio.get_running_loop()
        if self._batches is None or self._loop is not loop:
            self._batches, self._loop = self._source.batches(self._fetched), loop
        self._is_fetching = True
        try:
            events = await anext(self._batches, None) or []
        except BaseException:
            self._batches = None  # it is over, and the next one begins where this one was
            raise
        finally:
            self._is_fetching = False
        if events:
            self._fetched = max(self._fetched, events[-1].seq)
        return events

    async def _whole(self, timeout_s: float | None) -> Completion:
        """The answer, once the end was read: out of what was read, of all that is kept, or of the task's result."""
        if isinstance(self._ending, Done) and self._text.is_whole:
            return self._ending.completion(self._text.text)
        text = TextSoFar()
        async with aclosing(self._source.batches(0)) as batches:
            async for events in batches:
                for event in events:
                    text.note(event)
                    if isinstance(event, Done) and text.is_whole:
                        return event.completion(text.text)
        return await self._source.answer(timeout_s)


class Events:
    """The events of a stream. What was read is not given again."""

    def __init__(self, stream: LLMStream) -> None:
        """Take the stream."""
        self._stream = stream

    def __iter__(self) -> Iterator[Event]:
        """Each event, in order."""
        while (event := self._stream.take()) is not None or WAITING.run(self._stream.fetch()):
            if event is not None:
                yield event

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The same, without blocking the event loop."""
        while (event := self._stream.take()) is not None or await self._stream.fetch():
            if event is not None:
                yield event


def is_text(event: Event, task_id: str) -> TypeGuard[Chunk]:
    """The event is a piece of text. Raises what it says instead, where that is bad news."""
    match event:
        case Failed():
            raise event.error()
        case Cancelled():
            raise TaskCancelled(task_id)
        case Lost():
            raise StreamLost(task_id)
        case Gap():
            raise StreamGap(task_id, event.first, event.seq)
        case _:
            return isinstance(event, Chunk)


class TextStream:
    """Plain text, piece by piece, for a reader who cannot take any back. For `async for`, awaited or not."""

    def __init__(self, stream: LLMStream) -> None:
        """Take the stream."""
        self._stream = stream

    def __await__(self) -> Generator[Any, None, Self]:
        """The same: nothing has to be waited for before it is read."""
        yield from ()
        return self

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces. Raises StreamRestarted where the model begins anew after some were handed out."""
        is_handed_out = False
        async with self._stream as stream:
            async for event in stream.events():
                if is_handed_out and isinstance(event, Reset):
                    raise StreamRestarted(stream.id, event.attempt)
                if is_text(event, stream.id):
                    is_handed_out = True
                    yield event.text
