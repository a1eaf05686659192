"""What is in LiteLLM's answers. It takes its objects as they are, and does not import LiteLLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from kagura_tasks.errors import ProviderUnavailable
from kagura_tasks.providers import wire
from kagura_tasks.schemas import Completion, Json, Usage


def completion_in(response: Any, model: str, heard: Sequence[str]) -> Completion:
    """The completion; `heard` are the provider's own words, where they are known."""
    choices = response.choices
    if not choices:
        raise ProviderUnavailable(wire.NO_CHOICES, model)
    message = choices[0].message
    return Completion(
        text=message.content or "",
        model=model,
        finish_reason=_finish_reason(choices[0], heard),
        usage=usage_in(response),
        tool_calls=tuple(cast(Json, call.model_dump(mode="json")) for call in message.tool_calls or ()),
    )


def _finish_reason(choice: Any, heard: Sequence[str]) -> str:
    """Why the model stopped; "" where it did not say.

    LiteLLM reads a missing reason, and one that it does not know, as "stop". The first can be seen only in the
    provider's own words, the second is kept aside. No longer needed once ModelResponse keeps a missing reason None.
    """
    extra = cast("dict[str, object]", getattr(choice, "provider_specific_fields", None) or {})
    native = extra.get("native_finish_reason")
    # LiteLLM's rule for most providers: who calls tools has stopped for them.
    if choice.finish_reason == "stop" and choice.message.tool_calls:
        return "tool_calls"
    if choice.finish_reason == "stop":
        return str(native) if native else "stop" if _said_why(heard) else ""
    return "tool_calls" if choice.finish_reason == "function_call" else str(choice.finish_reason)


def _said_why(heard: Sequence[str]) -> bool:
    """False only where the provider's own words are in a form we know and give no reason for the end."""
    try:
        raw = cast(object, json.loads(heard[0])) if heard else None
    except ValueError:
        return True
    if not isinstance(raw, dict):
        return True
    answer = cast("dict[str, Any]", raw)
    if answer.get("choices"):
        return bool(answer["choices"][0].get("finish_reason"))
    return bool(answer["stop_reason"]) if "stop_reason" in answer else True


def vectors_in(response: Any, count: int) -> list[list[float]]:
    """The vectors of so many texts, in their order."""
    rows = sorted(cast("list[dict[str, Any]]", response.data or ()), key=lambda row: int(row["index"]))
    vectors = [[float(value) for value in row["embedding"]] for row in rows]
    if len(vectors) != count or len({len(vector) for vector in vectors}) > 1:
        raise ProviderUnavailable("the provider's answer does not hold a vector for each text", "")
    return vectors


def usage_in(response: Any) -> Usage:
    """Tokens, and the price that LiteLLM gave the answer."""
    used = getattr(response, "usage", None)
    return Usage(
        prompt_tokens=used.prompt_tokens or 0 if used else 0,
        completion_tokens=used.completion_tokens or 0 if used else 0,
        total_tokens=used.total_tokens or 0 if used else 0,
        cost_usd=response._hidden_params.get("response_cost"),
        cached_prompt_tokens=_cached_tokens(used),
    )


def _cached_tokens(used: Any) -> int:
    """The prompt's tokens that the provider had cached: LiteLLM tells them of every provider in OpenAI's place."""
    told = getattr(getattr(used, "prompt_tokens_details", None), "cached_tokens", None)
    return told if isinstance(told, int) and told > 0 else 0
