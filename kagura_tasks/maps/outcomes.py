"""How an item ended, as it is kept: a completion as JSON, or an envelope around a typed error."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, cast

from pydantic import ValidationError

from kagura_tasks.errors import KaguraTasksError, TaskCancelled, TaskFailed, rebuild
from kagura_tasks.schemas import Completion, Json, completion_from_wire


class Outcome(NamedTuple):
    """What an item's task came to, as `settle.lua` takes it. A call that cost nothing used nothing either."""

    kind: Literal["done", "failed", "cancelled"]
    document: Json
    cached: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None


def outcome_of_answer(completion: Json) -> Outcome:
    """The outcome of a task that returned this completion."""
    usage = cast("dict[str, Any]", completion.get("usage") or {})
    tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    return Outcome("done", completion, bool(completion.get("cached")), *tokens, usage.get("cost_usd"))


def outcome_of_error(error: BaseException) -> Outcome:
    """The outcome of a task that raised this. Of a foreign error the name is kept: its text may hold anything."""
    known = error if isinstance(error, KaguraTasksError) else TaskFailed(type(error).__name__)
    kind = "cancelled" if isinstance(known, TaskCancelled) else "failed"
    return Outcome(kind, {"error": {"type": type(known).__name__, "args": list(known.args)}})


def answer_in(stored: bytes | str | Json) -> Completion | KaguraTasksError:
    """The completion, or the error, that was kept."""
    try:
        document = cast("dict[str, Any]", stored if isinstance(stored, dict) else json.loads(stored))
        if "error" in document:
            return rebuild(str(document["error"]["type"]), list(document["error"]["args"]))
        return completion_from_wire(document)
    except (ValidationError, ValueError, TypeError, KeyError):
        return TaskFailed("UnknownResult", "what is kept of it is no outcome")
