"""What many calls will cost, before any of them is made: from LiteLLM's tokenizers and price map."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, cast

from kagura_tasks.providers import litellm as provider
from kagura_tasks.schemas import CompletionRequest
from kagura_tasks.tokens import TOKEN_BYTES

#: Parameters that say how long an answer may be, by the one that counts where both are given.
_LIMITS: Final = ("max_completion_tokens", "max_tokens")


@dataclass
class ModelEstimate:
    """What the calls of one model will use. Remembered answers cost nothing, and are not known here.

    Attributes:
        model: LiteLLM's name.
        calls: How many.
        prompt_tokens: Tokens of their prompts, or nearly so.
        low_usd: Their price where every answer is empty; None where the price map does not know the model.
        high_usd: The same where every answer is as long as it may be; None where that is not known either.
    """

    model: str
    calls: int = 0
    prompt_tokens: int = 0
    low_usd: float | None = 0.0
    high_usd: float | None = 0.0


class _Price(NamedTuple):
    """USD a token, and the longest answer (tokens). None is not known."""

    prompt_usd: float | None
    completion_usd: float | None
    longest_tokens: int | None


def estimate(requests: Iterable[CompletionRequest]) -> list[ModelEstimate]:
    """The estimate for each model, in the order in which they first appear. Calls nobody."""
    models: dict[str, ModelEstimate] = {}
    for request in requests:
        _add(models.setdefault(request.model, ModelEstimate(request.model)), request)
    return list(models.values())


def answer_limit(request: CompletionRequest) -> int | None:
    """How many tokens the answer may have, where the request says so."""
    return next((limit for name in _LIMITS if isinstance(limit := request.params.get(name), int)), None)


def _add(to: ModelEstimate, request: CompletionRequest) -> None:
    price = _price_of(request.model)
    tokens = _prompt_tokens(request)
    longest = answer_limit(request)
    low_usd = _times(tokens, price.prompt_usd)
    answer_usd = _times(price.longest_tokens if longest is None else longest, price.completion_usd)
    to.calls += 1
    to.prompt_tokens += tokens
    to.low_usd = _plus(to.low_usd, low_usd)
    to.high_usd = _plus(to.high_usd, _plus(low_usd, answer_usd))


@cache
def _price_of(model: str) -> _Price:
    entry = _entry_of(model)
    if entry.get("mode") == "embedding":
        entry = {**entry, "max_output_tokens": 0}
    numbers = [entry.get(name) for name in ("input_cost_per_token", "output_cost_per_token", "max_output_tokens")]
    return _Price(*(cast(Any, number) if isinstance(number, int | float) else None for number in numbers))


def _entry_of(model: str) -> dict[str, object]:
    """The model's entry in the price map, where many models are without their provider's name."""
    known = cast("dict[str, dict[str, object]]", cast(Any, provider.litellm).model_cost)
    if model in known:
        return known[model]
    prefix, _, name = model.partition("/")
    entry = known.get(name, {})
    return entry if entry.get("litellm_provider") == prefix else {}


def _prompt_tokens(request: CompletionRequest) -> int:
    messages = [message.to_json() for message in request.messages]
    name = request.model.rpartition("/")[2]
    with suppress(Exception):  # content that LiteLLM cannot count
        count = cast(Any, provider.litellm).token_counter
        # Images would be fetched, to be measured.
        tools = request.params.get("tools")
        return int(count(model=name, messages=messages, tools=tools, use_default_image_token_count=True))
    return len(request.model_dump_json(include={"messages"}).encode()) // TOKEN_BYTES + 1


def _times(tokens: int | None, usd: float | None) -> float | None:
    return None if tokens is None or usd is None else tokens * usd


def _plus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right
