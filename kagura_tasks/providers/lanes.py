"""Two ways to a model: straight over HTTP where its provider speaks OpenAI's format, through LiteLLM otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from kagura_tasks.providers.direct import DirectLane, NeedsLiteLLM, Reader
from kagura_tasks.providers.plain import Route
from kagura_tasks.providers.prices import Billed, PriceList
from kagura_tasks.providers.provider import HandOver, Provider
from kagura_tasks.schemas import Completion, CompletionRequest, Json, Usage

#: Seconds after which a change of the environment is noticed.
_ROUTE_TTL_S: Final = 1.0


class Knows(Provider, Reader, Protocol):
    """LiteLLM: makes any call, and knows what the direct lane has to know."""

    def route(self, model: str, api_base: str | None) -> Route | None:
        """Where the model's calls go; None where LiteLLM has to make them."""
        ...

    def cost_usd(self, billed: Billed, used: Json) -> float | None:
        """What an answer with this usage costs."""
        ...


class Lanes:
    """Chooses for each request. When in doubt, LiteLLM makes the call."""

    def __init__(self, litellm: Knows) -> None:
        """Take LiteLLM."""
        self._litellm = litellm
        self._routes = _Routes(litellm.route)
        self._direct = DirectLane(PriceList(litellm.cost_usd), litellm)

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """See Provider."""
        ends_at = time.monotonic() + timeout_s
        route = self._route(request)
        if route is not None:
            try:
                return await self._direct.complete(request, route, timeout_s)
            except NeedsLiteLLM:
                timeout_s = max(0.001, ends_at - time.monotonic())
        return await self._litellm.complete(request, timeout_s)

    async def stream(self, request: CompletionRequest, timeout_s: float, hand_over: HandOver) -> Completion:
        """See Provider."""
        ends_at = time.monotonic() + timeout_s
        route = self._route(request)
        if route is not None:
            try:
                return await self._direct.stream(request, route, timeout_s, hand_over)
            except NeedsLiteLLM:
                timeout_s = max(0.001, ends_at - time.monotonic())
        return await self._litellm.stream(request, timeout_s, hand_over)

    async def count(self, request: CompletionRequest, text: str) -> Usage:
        """See Provider."""
        return await self._litellm.count(request, text)

    async def embed(self, model: str, texts: Sequence[str], timeout_s: float) -> list[list[float]]:
        """See Provider."""
        return await self._litellm.embed(model, texts, timeout_s)

    def context_window(self, model: str) -> int | None:
        """See Provider."""
        return self._litellm.context_window(model)

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        """See Provider."""
        return await self._litellm.count_tokens(model, texts)

    def _route(self, request: CompletionRequest) -> Route | None:
        api_base = request.params.get("api_base")
        return self._routes.find(request.model, api_base) if isinstance(api_base, str | None) else None


class _Routes:
    """Routes depend on dozens of variables of the environment: reading them takes longer than encoding the request."""

    def __init__(self, look_up: Callable[[str, str | None], Route | None]) -> None:
        self._look_up = look_up
        self._found: dict[tuple[str, str | None], Route | None] = {}
        self._hold_until = 0.0

    def find(self, model: str, api_base: str | None) -> Route | None:
        if (now := time.monotonic()) > self._hold_until:
            self._found.clear()
            self._hold_until = now + _ROUTE_TTL_S
        if (model, api_base) not in self._found:
            self._found[model, api_base] = self._look_up(model, api_base)
        return self._found[model, api_base]
