"""When are two requests the same?"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final, cast

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.schemas import CompletionRequest, Json, Message

#: Raise it when a change makes old entries wrong: old keys are then never read, and expire by themselves.
KEY_VERSION: Final = 1

#: Parameters that say how an answer is fetched, not what it is. All others count, also those nobody here knows.
NOT_IN_KEY: Final = frozenset({"timeout", "request_timeout", "metadata"})

#: `json.dumps` with options makes a new one of these at each call.
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

_SECRET_NAME: Final = re.compile(
    r"(^|[-_])(api[-_]?key|key[-_]?id|access[-_]?key|subscription[-_]?key|secret|token|password|credentials?"
    r"|auth|authorization|cookie)$",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """A parameter or header with this name carries a credential: it is never sent, and in no key."""
    return bool(_SECRET_NAME.search(name))


def cache_key(request: CompletionRequest) -> str:
    """The entry's name: equal for requests that deserve the same answer, whatever their order and spelling.

    The form is `v<version>:<model>:<sha-256 in hex>`. Raises InvalidRequest where a value has no JSON form.
    """
    params = request.params
    if request.tools is not None:
        params = {**params, "tools_of_ours": request.tools.model_dump(mode="json")}
    if request.fallbacks:
        params = {**params, "fallbacks": list(request.fallbacks)}
    return key_for(request.messages, request.model, request.tenant, params)


def key_for(
    prompt: str | Sequence[Message | Mapping[str, object]], model: str, tenant: str, params: Mapping[str, object]
) -> str:
    """The same, for a request that is not built yet; a plain prompt is one message of the user."""
    fields = {"messages": _turns(prompt), "model": model, "params": _counted(params), "tenant": tenant}
    canonical = _ENCODER.encode(_canonical(fields))
    return f"v{KEY_VERSION}:{model}:{hashlib.sha256(canonical.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _turns(prompt: str | Sequence[Message | Mapping[str, object]]) -> list[object]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [turn.to_json() if isinstance(turn, Message) else turn for turn in prompt]


def _counted(params: Mapping[str, object]) -> dict[str, object]:
    """The parameters that the answer depends on. One that is None was not given: LiteLLM sees it so, too."""
    counted = {
        name: value
        for name, value in params.items()
        if value is not None and name not in NOT_IN_KEY and not is_secret_name(name)
    }
    headers = counted.get("extra_headers")
    if isinstance(headers, Mapping):
        counted["extra_headers"] = _public_headers(headers)  # pyright: ignore[reportUnknownArgumentType]
    body = counted.get("extra_body")
    if isinstance(body, Mapping):
        fields = cast("Mapping[str, object]", body)
        counted["extra_body"] = {name: value for name, value in fields.items() if not is_secret_name(name)}
    return counted


def _public_headers(headers: Mapping[str, object]) -> Json:
    """Header names mean the same in any case; credentials among them stay out."""
    return {name.lower(): str(value) for name, value in headers.items() if not is_secret_name(name)}


def _canonical(value: object) -> object:
    """The one form of all values that mean the same: NFC text, 0 for 0.0, lists for tuples."""
    match value:
        case str():
            return value if value.isascii() else unicodedata.normalize("NFC", value)
        case bool() | int() | None:
            return value
        case float():
            return _canonical_number(value)
        case list() | tuple():
            return [_canonical(item) for item in cast("Sequence[object]", value)]
        case dict() | Mapping():  # to ask for a Mapping is slow, and nearly all are dicts
            return _canonical_object(cast("Mapping[object, object]", value))
        case _:
            raise InvalidRequest(f"a parameter of type {type(value).__name__} has no JSON form")


def _canonical_object(value: Mapping[object, object]) -> dict[str, object]:
    return {str(_canonical(name)): _canonical(item) for name, item in value.items()}


def _canonical_number(value: float) -> float | int:
    if not math.isfinite(value):
        raise InvalidRequest("a parameter is no finite number")
    return int(value) if value.is_integer() else value
