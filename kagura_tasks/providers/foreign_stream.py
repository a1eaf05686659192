"""Follows a stream of LiteLLM's, whose objects it takes as they are: it does not import LiteLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from kagura_tasks.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from kagura_tasks.providers import wire
from kagura_tasks.providers.written import Written
from kagura_tasks.schemas import CompletionRequest, Json

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
        self.usage: Any = None
        if hasattr(stream, "count_prompt_tokens"):
            # LiteLLM would fetch images to count them, where the provider does not tell the usage. We count ourselves.
            stream.count_prompt_tokens = lambda: 0

    async def follow(self, written: Written) -> None:
        """Read it all. Raises ProviderError, and what the text's receiver raises; the connection is then closed."""
        try:
            while (chunk := await self._next()) is not None:
                self._take(chunk, written)
                # LiteLLM reads what has come without a pause, at nearly a millisecond a chunk.
                await asyncio.sleep(0)
        finally:
            await self._stream.aclose()
        # LiteLLM calls every end "stop". Only here one can see that a stream was cut.
        written.finish_reason = self._stream.received_finish_reason
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
            if isinstance(ours, ProviderTimeout) and self._stream.received_finish_reason:
                return None  # the answer is whole, and the usage can be counted
            raise ours from None

    def _take(self, chunk: Any, written: Written) -> None:
        self.usage = getattr(chunk, "usage", None) or self.usage
        hidden = cast("dict[str, Any]", getattr(chunk, "hidden_params", None) or {})
        self._about = {
            "model": hidden.get("provider_response_model") or self._about.get("model"),
            "service_tier": getattr(chunk, "service_tier", None),
        }
        choice = next((one for one in chunk.choices if not one.index), None)
        delta = choice.delta if choice else None
        for call in getattr(delta, "tool_calls", None) or ():
            written.add_calls((cast(Json, call.model_dump(mode="json")),))
        if text := getattr(delta, "content", None):
            written.add_text(text)


def error_in_stream(error: Exception, request: CompletionRequest) -> ProviderError | None:
    """Ours for one that the provider sent as a part of its stream; None where it was not that."""
    said = getattr(error, "body", None)
    return wire.error_within(said, request) if said and not getattr(error, "status_code", None) else None
