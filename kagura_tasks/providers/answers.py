"""Reads plain chat completions. Whatever is unusual in one, LiteLLM reads, so that both lanes say the same."""

from __future__ import annotations

from typing import Any, Final, cast

from kagura_tasks.providers.plain import Route
from kagura_tasks.providers.prices import Billed, PriceList
from kagura_tasks.schemas import Completion, Json

#: The reasons that mean the same to everybody. Others are for LiteLLM's table.
_REASONS: Final = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    None: "",
}

#: LiteLLM cuts thoughts off that stand in front of the answer.
_THOUGHTS: Final = ("<think", "<budget:thinking")

#: LiteLLM takes calls of this tool apart.
_PARALLEL: Final = "multi_tool_use.parallel"

_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


def read_plain(answer: Json, route: Route, model: str, prices: PriceList) -> Completion | None:
    """The completion; None where the answer has something unusual in it."""
    choice = _plain_choice(answer)
    used = answer.get("usage")
    if choice is None or not _is_counted(used) or not isinstance(answer.get("model", ""), str | None):
        return None
    message = choice["message"]
    calls = cast("list[Json]", message.get("tool_calls") or [])
    return Completion(
        text=message.get("content") or "",
        model=model,
        # Who calls tools has stopped for them, whatever the server says of it: the rule of both lanes.
        finish_reason="tool_calls" if calls and _stopped(choice) else _REASONS[choice.get("finish_reason")],
        usage=prices.usage(_billed(answer, route), cast(Json, used)),
        tool_calls=tuple(calls),
    )


def _plain_choice(answer: Json) -> dict[str, Any] | None:
    choices = answer.get("choices")
    choice = cast("dict[str, Any]", choices[0]) if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict) or "finish_details" in choice:
        return None
    known = isinstance(reason := choice.get("finish_reason"), str | None) and reason in _REASONS
    return choice if known and _is_plain_message(choice["message"]) else None


def _is_plain_message(message: dict[str, Any]) -> bool:
    content = message.get("content")
    if not isinstance(content, str | None) or (content or "").startswith(_THOUGHTS) or message.get("annotations"):
        return False
    return message.get("role", "assistant") == "assistant" and _are_calls(message.get("tool_calls") or [])


def _are_calls(calls: object) -> bool:
    return isinstance(calls, list) and all(map(_is_call, cast("list[Any]", calls)))


def _is_call(call: Any) -> bool:
    """In exactly OpenAI's form."""
    if not isinstance(call, dict) or cast(Json, call).keys() != {"id", "type", "function"}:
        return False
    function = cast(Any, call["function"])
    if call["type"] != "function" or not isinstance(call["id"], str) or not isinstance(function, dict):
        return False
    held = cast("dict[str, Any]", function)
    texts = held.keys() == {"name", "arguments"} and all(isinstance(value, str) for value in held.values())
    return texts and held["name"] != _PARALLEL


def _stopped(choice: dict[str, Any]) -> bool:
    return choice.get("finish_reason") in (None, "stop")


def _is_counted(used: object) -> bool:
    """The usage has OpenAI's three counts."""
    if not isinstance(used, dict):
        return False
    held = cast(Json, used)
    return all(isinstance(count := held.get(name), int) and count >= 0 for name in _COUNTS) and "cost" not in held


def _billed(answer: Json, route: Route) -> Billed:
    tier = answer.get("service_tier")
    return Billed(route.provider, route.model, str(answer.get("model") or ""), tier if isinstance(tier, str) else None)
