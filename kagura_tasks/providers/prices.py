"""What a call costs: LiteLLM's cost function, asked once for each model and remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from kagura_tasks.schemas import Json, Usage

#: Above it a model may have another price for every token (the smallest such step in LiteLLM's map is 32,000).
_ONE_PRICE_TOKENS: Final = 16_000

#: What some call the prompt's tokens that were cheaper.
_CACHED: Final = ("prompt_cache_hit_tokens", "cache_read_input_tokens")

#: Tokens of a question about prices: enough that no digit is lost, too few for the next price.
_PROBE_TOKENS: Final = 10_000


@dataclass(frozen=True)
class Billed:
    """What LiteLLM's cost function looks at beside the tokens."""

    provider: str
    model: str
    answered_by: str
    service_tier: str | None


#: The cost (USD) of an answer with this usage; None where the price map does not know the model.
CostFunction = Callable[[Billed, Json], float | None]


@dataclass(frozen=True)
class _Prices:
    """USD a token."""

    prompt: float
    cached: float
    completion: float


class PriceList:
    """The cost of answers, without asking LiteLLM each time: that takes longer than the call itself."""

    def __init__(self, ask: CostFunction) -> None:
        """Take LiteLLM's cost function."""
        self._ask = ask
        self._prices = lru_cache(maxsize=1024)(self._look_up)

    def usage(self, billed: Billed, used: Json) -> Usage:
        """The answer's usage with its price."""
        prompt, completion = cast(int, used.get("prompt_tokens")), cast(int, used.get("completion_tokens"))
        cached = _cached_tokens(used)
        if cached is None or prompt > _ONE_PRICE_TOKENS:
            cost = self._ask(billed, used)
        else:
            prices = self._prices(billed)
            cost = prices and (
                (prompt - cached) * prices.prompt + cached * prices.cached + completion * prices.completion
            )
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=cast(int, used.get("total_tokens")),
            cost_usd=cost,
            cached_prompt_tokens=_told_as_cached(used) if cached is None else cached,
        )

    def _look_up(self, billed: Billed) -> _Prices | None:
        """Each price is the cost of a usage that has nothing else in it."""
        costs = [
            self._ask(billed, _usage(_PROBE_TOKENS, 0)),
            self._ask(billed, _usage(_PROBE_TOKENS, 0, cached=_PROBE_TOKENS)),
            self._ask(billed, _usage(0, _PROBE_TOKENS)),
        ]
        return None if None in costs else _Prices(*(cast(float, cost) / _PROBE_TOKENS for cost in costs))


def _usage(prompt: int, completion: int, *, cached: int = 0) -> Json:
    details: dict[str, Any] = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}


def _told_as_cached(used: Json) -> int:
    """The same, of a usage that LiteLLM prices, as it reads it: other words win. What is no such number is none."""
    details = used.get("prompt_tokens_details")
    told = [used.get(name) for name in _CACHED] + [details.get("cached_tokens") if isinstance(details, dict) else None]
    return next((one for one in told if isinstance(one, int) and one > 0), 0)


def _cached_tokens(used: Json) -> int | None:
    """The prompt's tokens that were cheaper; None where something else has a price of its own."""
    prompt, completion = used.get("prompt_tokens_details") or {}, used.get("completion_tokens_details") or {}
    if not isinstance(prompt, dict) or not isinstance(completion, dict):
        return None
    if any(completion.values()) or any(value for name, value in prompt.items() if name != "cached_tokens"):
        return None
    cached = prompt.get("cached_tokens") or 0
    # Other words for the same number; where they say something else, LiteLLM decides.
    if used.get("cache_creation_input_tokens") or any(used.get(name) not in (None, 0, cached) for name in _CACHED):
        return None
    return cached if isinstance(cached, int) and 0 <= cached <= cast(int, used.get("prompt_tokens")) else None
