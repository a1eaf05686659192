"""Follows a stream of LiteLLM's, whose objects it takes as they are: it does not import LiteLLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, cast

from kagura_tasks.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from kagura_tasks.providers import wire
from kagura_tasks.providers.transient import TOO_LATE
from kagura_tasks.providers.written import Written
from kagura_tasks.schemas import CompletionRequest, Json

#: What a server of OpenAI's format sends last.
_DONE: Final = "[DONE]"

#: How a stream is asked for. LiteLLM tells the usage of every provider, and asks those for it that want to be asked.
STREAMED: Final[Json] = {"stream": True, "stream_options": {"include_usage": True}}


class ForeignStream:
    """One streamed answer, read to its end or closed.

    Attributes:
        usage: As LiteLLM sums it up at the end; None where it did not come to that.
    """

    def __init__(self, stream: Any, timeout_s: float, translate: Callable[[Exception], ProviderError]) -> None:
        """Take what `acompletion` returned, the longest silence in it, and what makes our errors of its."""
        self._stream = stream
        self._timeout_s = timeout_s
        self._translate = translate
        self._about: Json = {}
        self._reason: str | None = None
        self._heard_end: bool | None = None  # None: the provider's own words are not heard
        self.usage: Any = None
        if hasattr(stream, "count_prompt_tokens"):
            # LiteLLM would fetch images to count them, where the provider does not tell the usage. We count ourselves.
            stream.count_prompt_tokens = lambda: 0
        self._listen()

    async def follow(self, written: Written) -> None:
        """Read it all. Raises ProviderError, and what the text's receiver raises; the connection is then closed."""
        try:
            while (chunk := await self._next()) is not None:
                self._take(chunk, written)
                # LiteLLM reads what has come without a pause, at nearly a millisecond a chunk.
                await asyncio.sleep(0)
        finally:
            await self._stream.aclose()
        written.finish_reason = self._reason or self._reason_so_far()
        if written.finish_reason is None:
            raise ProviderUnavailable(wire.CUT, written.model)
        written.end()

    def answer(self, written: Written) -> Json:
        """The whole as a plain answer, but for the text."""
        used = self.usage.model_dump(mode="json", exclude_none=True) if self.usage else None
        return {**self._about, **written.as_answer(), "usage": used}

    async def _next(self) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await anext(self._stream, None)
        except Exception as error:  # noqa: BLE001 (the border: see LiteLLMProvider)
            ours = self._translate(error)
            if isinstance(ours, ProviderTimeout) and self._reason:
                return None  # the answer is whole, and the usage can be counted
            raise ours from None

    def _reason_so_far(self) -> str | None:
        """Why the provider says that the answer ends. In its last chunk, LiteLLM calls every end "stop", a cut as well.

        The second is of the newest chunk: a reason in one that brings text as well is only there.
        """
        reason = self._stream.received_finish_reason or self._stream.intermittent_finish_reason
        return reason if self._heard_end is not False else None

    def _listen(self) -> None:
        """Hear the provider's own words, where LiteLLM reads them itself.

        It puts "stop" into each of Gemini's chunks, and where a server of OpenAI's format is done, with a reason or
        without; and it passes over what it cannot read. No longer needed once it keeps a missing reason None.
        """
        self._hear(getattr(self._stream, "completion_stream", None))
        call = cast(Any, getattr(self._stream, "make_call", None))

        async def call_and_listen(**named: Any) -> Any:
            chunks = await call(**named)
            self._hear(chunks)
            return chunks

        if call is not None:
            self._stream.make_call = call_and_listen

    def _hear(self, chunks: Any) -> None:
        if hasattr(chunks, "chunk_parser"):
            chunks.chunk_parser = self._hearing(chunks.chunk_parser)
        handle = getattr(chunks, "_handle_string_chunk", None)
        # Its reader of lines, as all servers of OpenAI's format share it. Others have one of their own.
        if getattr(handle, "__qualname__", "").startswith("BaseModelResponseIterator."):
            chunks._handle_string_chunk = self._reading(chunks, cast(Any, handle))

    def _hearing(self, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def hear(chunk: Any) -> Any:
            self._heard_end = _ends(chunk, self._heard_end)
            return parse(chunk)

        return hear

    def _reading(self, chunks: Any, handle: Callable[[str], Any]) -> Callable[[str], Any]:
        """LiteLLM takes any line with [DONE] in it for the end, a text that says so as well."""

        def read(str_line: str) -> Any:
            words = str_line.removeprefix("data:").strip()
            if not str_line.startswith("data:") or words == _DONE:
                return handle(str_line)
            try:
                chunk = cast(object, json.loads(words))
            except (ValueError, RecursionError):
                raise ProviderUnavailable(wire.UNREADABLE, "") from None
            return chunks.chunk_parser(chunk=chunk) if isinstance(chunk, dict) else handle(str_line)

        return read

    def _take(self, chunk: Any, written: Written) -> None:
        self._reason = self._reason_so_far() or self._reason
        self.usage = getattr(chunk, "usage", None) or self.usage
        hidden = cast("dict[str, Any]", getattr(chunk, "hidden_params", None) or {})
        self._about = {
            "model": self._about.get("model") or hidden.get("provider_response_model"),
            "service_tier": getattr(chunk, "service_tier", None) or self._about.get("service_tier"),
        }
        choice = next((one for one in chunk.choices if not one.index), None)
        delta = choice.delta if choice else None
        for call in getattr(delta, "tool_calls", None) or ():
            written.add_calls((cast(Json, call.model_dump(mode="json")),))
        if text := getattr(delta, "content", None):
            written.add_text(text)


def _ends(chunk: Any, ended: bool | None) -> bool | None:
    """Whether the provider gave a reason for the end by now; as before where the form is not one that we know."""
    said = cast("dict[str, Any]", chunk) if isinstance(chunk, dict) else {}
    choices, candidates = said.get("choices"), said.get("candidates")
    if not isinstance(choices or candidates, list):
        return ended
    reasons = [one.get("finish_reason") for one in choices or ()] + [
        one.get("finishReason") for one in candidates or ()
    ]
    return bool(ended) or any(reasons)


def error_in_stream(error: BaseException | None, request: CompletionRequest) -> ProviderError | None:
    """Ours for one in the middle of a stream: a silence, or what the provider sent as a part of it; None for others.

    LiteLLM makes a lost connection of either. What it was is in the error that its client had raised before.
    """
    while error is not None:
        if isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
            return ProviderTimeout(TOO_LATE, request.model)
        if (said := getattr(error, "body", None)) and not getattr(error, "status_code", None):
            return wire.error_within(said, request)
        error = error.__context__
    return None
