"""From how an item of a map ended to a row: our own, or one as OpenAI's Batch API writes it."""

from __future__ import annotations

import re
import time
from typing import Final, cast

from kagura_tasks.batch_files.rows import RowFormat
from kagura_tasks.errors import KaguraTasksError, ProviderError, ProviderTimeout, TaskCancelled
from kagura_tasks.groups import MapOutcome
from kagura_tasks.schemas import Completion, Json

#: OpenAI's words for what can happen to a row of a batch.
_CODES: Final[dict[type[KaguraTasksError], str]] = {
    ProviderTimeout: "request_timeout",
    TaskCancelled: "batch_cancelled",
}

_HTTP_OK: Final = 200


def answer_row(outcome: MapOutcome, map_id: str, form: RowFormat) -> Json:
    """The row that says how the item ended."""
    return _batch_row(outcome, map_id) if form == "batch" else _row(outcome)


def format_of_answer(row: Json) -> RowFormat:
    """The form in which a row of answers is written."""
    return "batch" if "response" in row else "rows"


def is_failure(row: Json) -> bool:
    """The row says why there is no answer."""
    response = row.get("response")
    refused = isinstance(response, dict) and response.get("status_code") != _HTTP_OK
    return refused or row.get("error") is not None


def _row(outcome: MapOutcome) -> Json:
    answer = outcome.answer
    if isinstance(answer, KaguraTasksError):
        return {"custom_id": outcome.custom_id, "error": {"type": type(answer).__name__, "message": str(answer)}}
    fields = cast(Json, answer.model_dump(mode="json"))
    tool_calls = fields.pop("tool_calls")
    return {"custom_id": outcome.custom_id, **fields, **({"tool_calls": tool_calls} if tool_calls else {})}


def _batch_row(outcome: MapOutcome, map_id: str) -> Json:
    request_id = f"{map_id}.{outcome.index}"
    name: Json = {"id": f"batch_req_{request_id}", "custom_id": outcome.custom_id}
    answer = outcome.answer
    if isinstance(answer, KaguraTasksError):
        return {**name, **_failure(answer, request_id)}
    return {**name, "response": _response(_HTTP_OK, request_id, _chat(answer, request_id)), "error": None}


def _failure(error: KaguraTasksError, request_id: str) -> Json:
    """What the provider refused is its response; all else is an error of the batch."""
    told: Json = {"code": _code(error), "message": str(error)}
    if isinstance(error, ProviderError) and error.status:
        body: Json = {"error": {**told, "type": type(error).__name__, "param": None}}
        return {"response": _response(error.status, request_id, body), "error": None}
    return {"response": None, "error": told}


def _response(status: int, request_id: str, body: Json) -> Json:
    return {"status_code": status, "request_id": request_id, "body": body}


def _chat(completion: Completion, request_id: str) -> Json:
    """OpenAI's chat completion."""
    message: Json = {"role": "assistant", "content": completion.text or None, "refusal": None}
    if completion.tool_calls:
        message["tool_calls"] = list(completion.tool_calls)
    finish_reason = completion.finish_reason or None
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": completion.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": cast(Json, completion.usage.model_dump(mode="json", exclude={"cost_usd"})),
    }


def _code(error: KaguraTasksError) -> str:
    """OpenAI's word, or else the class's name as one: `RateLimited` is "rate_limited"."""
    name = type(error).__name__
    return _CODES.get(type(error)) or re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
