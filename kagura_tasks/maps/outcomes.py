"""How an item ended, as it is kept: a completion as JSON, or an envelope around a typed error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple, cast

from pydantic import ValidationError

from kagura_tasks.errors import FileError, KaguraTasksError, TaskCancelled, TaskFailed
from kagura_tasks.plans import enveloped, error_in
from kagura_tasks.schemas import Completion, Json, completion_from_wire

_UNREADABLE: Final = TaskFailed("UnknownResult", "what is kept of it is no outcome")


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
    if isinstance(known, TaskCancelled):
        return Outcome("cancelled", enveloped(known))
    return Outcome("done" if is_passed_over(known) else "failed", enveloped(known))


def is_passed_over(answer: Completion | KaguraTasksError) -> bool:
    """Nobody promised to read this file: there is no answer, and nothing has failed."""
    return isinstance(answer, FileError) and answer.is_passed_over


def document_of(answer: Completion | KaguraTasksError) -> Json:
    """The completion, or the error, as it is kept."""
    return answer.model_dump(mode="json") if isinstance(answer, Completion) else outcome_of_error(answer).document


def labelled_documents(answers: Iterable[tuple[str, Completion | KaguraTasksError]]) -> list[Json]:
    """Items' answers as they are kept, each text with the item's name above it; without what was passed over."""
    return [document_of(_labelled(name, answer)) for name, answer in answers if not is_passed_over(answer)]


def _labelled(name: str, answer: Completion | KaguraTasksError) -> Completion | KaguraTasksError:
    if not isinstance(answer, Completion):
        return answer
    return answer.model_copy(update={"text": f"## {name}\n\n{answer.text}"})


def document_in(stored: bytes) -> Json:
    """What was kept, as JSON; what is none is an envelope around an error."""
    try:
        document = cast(object, json.loads(stored))
    except ValueError:
        document = None
    return cast(Json, document) if isinstance(document, dict) else enveloped(_UNREADABLE)


def answer_in(stored: bytes) -> Completion | KaguraTasksError:
    """The completion, or the error, that was kept."""
    document = document_in(stored)
    try:
        return error_in(document) or completion_from_wire(document)
    except ValidationError:
        return _UNREADABLE
