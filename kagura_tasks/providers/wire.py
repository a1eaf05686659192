"""What is true of OpenAI's wire format whoever reads it: code words, waits, and which error a refusal is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from kagura_tasks.errors import (
    AuthenticationFailed,
    ContentRefused,
    ContextTooLong,
    PermanentError,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    UnknownModel,
)
from kagura_tasks.providers.transient import TOO_MANY, by_status
from kagura_tasks.quick_json import decoded
from kagura_tasks.schemas import CompletionRequest

TOO_LONG: Final = "prompt and answer do not fit the context window"
FILTERED: Final = "the provider's safety filter refused the prompt"
UNKNOWN: Final = "the provider does not know this model"
REFUSED: Final = "the provider refused the request"
BAD_KEY: Final = "the provider refused the worker's key"
NO_CHOICES: Final = "the provider's answer has no choices"
CUT: Final = "the provider's stream ended before the answer did"
UNREADABLE: Final = "a part of the provider's stream cannot be read"
FAILED_LATER: Final = "the provider failed in the middle of its answer"

#: OpenAI's code words that say more than the status beside them.
CODES: Final[dict[str, tuple[type[PermanentError], str]]] = {
    "context_length_exceeded": (ContextTooLong, TOO_LONG),
    "content_policy_violation": (ContentRefused, FILTERED),
    "content_filter": (ContentRefused, FILTERED),
    "model_not_found": (UnknownModel, UNKNOWN),
}

#: How servers without code words say the same, in lower case. They are LiteLLM's signs, for the same reason.
_PHRASES: Final[list[tuple[str, type[PermanentError], str]]] = [
    *(
        (phrase, ContextTooLong, TOO_LONG)
        for phrase in (
            "this model's maximum context length is",
            "model's maximum context limit",
            "is longer than the model's context length",
            "exceeds the available context size",
            "exceeds the maximum number of tokens allowed",
            "exceed context limit",
            "input tokens exceed the configured limit",
        )
    ),
    ("violating our usage policy", ContentRefused, FILTERED),
    ("request was rejected as a result of the safety system", ContentRefused, FILTERED),
]

#: Whoever asks for a longer pause would close a provider for good.
_LONGEST_WAIT_S: Final = 86_400.0

#: Some gateways say so with status 400.
_RATE_LIMIT: Final = re.compile(rb"rate[\s_-]*limit", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A provider's reply: its status, its headers, its body as it came (which may quote the prompt)."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> object:
        """The body, or None where it is no JSON."""
        try:
            return decoded(self.body)
        except (ValueError, RecursionError):
            return None


def error_of(reply: Reply, request: CompletionRequest) -> ProviderError:
    """The error that a reply with a status other than 2xx is. Nothing of its free text is in it."""
    model, status, said = request.model, reply.status, _complaint(reply.json())
    code = code_word(said.get("code"))
    if status in (401, 403):
        return AuthenticationFailed(BAD_KEY, model, status)
    if (transient := by_status(status)) is not None:
        return transient.error(transient.text, model, status, retry_after_s(reply.headers))
    if code not in CODES and _RATE_LIMIT.search(reply.body):
        return RateLimited(TOO_MANY, model, status, retry_after_s(reply.headers))
    is_unknown = status == 404 and said.get("type") != "invalid_request_error"
    otherwise = (UnknownModel, UNKNOWN) if is_unknown else (RequestRefused, REFUSED)
    permanent, text = CODES.get(code) or _phrase(reply) or otherwise
    details = safe_details(said, reply.body.decode("utf-8", "replace"), request) if permanent is RequestRefused else ""
    return permanent(text + details, model, status)


def error_within(said: object, request: CompletionRequest) -> ProviderError:
    """The error that came in a stream which had begun well: with a status only where it names one itself.

    Another try may help, unless it is of a kind that it cannot.
    """
    status = _status_within(said)
    body = json.dumps({"error": said}).encode()
    error = error_of(Reply(status or 400, {}, body), request)
    if status:
        return error
    return ProviderUnavailable(FAILED_LATER, request.model) if type(error) is RequestRefused else _without_status(error)


def _status_within(said: object) -> int:
    code = cast("dict[str, object]", said).get("code") if isinstance(said, dict) else None
    status = int(code) if isinstance(code, int | str) and str(code).isdecimal() else 0
    return status if 400 <= status < 600 else 0


def _without_status(error: ProviderError) -> ProviderError:
    return type(error)(error.message, error.model)


def _complaint(body: object) -> dict[str, Any]:
    """The object with code, param and message: under "error", or the body itself."""
    said = cast("dict[str, Any]", body).get("error", body) if isinstance(body, dict) else None
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def complaint_in(text: str) -> Mapping[str, object]:
    """The provider's complaint where its reply is quoted in a sentence."""
    with suppress(ValueError, RecursionError):
        reply = cast(object, json.JSONDecoder().raw_decode(text[max(0, text.find("{")) :])[0])
        return _complaint(cast(object, reply)) if isinstance(reply, dict) and "error" in reply else {}
    return {}


def _phrase(reply: Reply) -> tuple[type[PermanentError], str] | None:
    text = reply.body.decode("utf-8", "replace").lower()
    return next(((error, words) for phrase, error, words in _PHRASES if phrase in text), None)


def safe_details(said: Mapping[str, object], text: str, request: CompletionRequest) -> str:
    """What can be said safely: the provider's code words, and which of the request's parameters it speaks of."""
    words = [f"{name}={word}" for name in ("code", "param") if (word := code_word(said.get(name)))]
    named = [name for name in request.params if name in text]
    if named and not any(word.startswith("param=") for word in words):
        words.append(f"parameters={','.join(named)}")
    return f": {', '.join(words)}" if words else ""


def code_word(value: object) -> str:
    """A provider's identifier, such as unsupported_parameter. A sentence is none, and may quote the prompt."""
    return value if isinstance(value, str) and len(value) <= 64 and value.replace(".", "_").isidentifier() else ""


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that the provider asks to wait, a day at most; 0 where it does not say."""
    lower = {name.lower(): value for name, value in headers.items()}
    return min(max(0.0, _asked_s(lower)), _LONGEST_WAIT_S)


def _asked_s(headers: Mapping[str, str]) -> float:
    with suppress(KeyError, ValueError):
        return float(headers["retry-after-ms"]) / 1000
    with suppress(KeyError, ValueError):
        return float(headers["retry-after"])
    # RFC 9110 knows a date as well. It is by the provider's clock, which need not be ours.
    with suppress(KeyError, ValueError, TypeError):
        then, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return (then - now).total_seconds()
    return 0.0
