"""From what a caller writes to a request: whatever can be known to be wrong is refused here, before it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from kagura_tasks.cache.key import is_secret_name
from kagura_tasks.errors import InvalidRequest, PromptTooLarge, SecretInRequest
from kagura_tasks.schemas import CompletionRequest, Message, Priority, is_unicode, problems_of
from kagura_tasks.settings import Settings

#: A prompt: a text, which is one message of the user, or chat turns.
Prompt = str | Sequence[Message | Mapping[str, object]]

#: Parameters of LiteLLM that this package decides itself, and what to do instead.
_NOT_YOURS: Final = {
    "messages": "give them as the prompt",
    "model": "name it beside the parameters",
    "stream": "use LLMClient.stream, or submit(stream=True)",
    "timeout": "use timeout_s",
    "request_timeout": "use timeout_s",
    "num_retries": "KAGURA_TASKS_MAX_RETRIES on the workers says how often",
    "max_retries": "KAGURA_TASKS_MAX_RETRIES on the workers says how often",
    "caching": "use use_cache",
    "cache": "use use_cache",
}


#: Options that are no parameter of a model's.
_OURS: Final = frozenset({"model", "use_cache", "cache_ttl", "tags", "tenant", "priority", "timeout_s"})

_HALF: Final = "a text of the request holds half a character (a lone surrogate)"


def build_request(
    settings: Settings,
    prompt: Prompt,
    *,
    model: str | None = None,
    use_cache: bool = True,
    cache_ttl: int | None = None,
    tags: Iterable[str] = (),
    tenant: str | None = None,
    priority: Priority | str | int = Priority.NORMAL,
    timeout_s: float | None = None,
    params: Mapping[str, object],
) -> CompletionRequest:
    """The request. Raises InvalidRequest, SecretInRequest or PromptTooLarge; a message's text is in none of them."""
    _check_params(params)
    if isinstance(tags, str) or isinstance(params.get("fallbacks"), str):
        raise InvalidRequest("tags, and fallbacks, are a list of names, not one text")
    messages = _turns(prompt)
    fields: dict[str, object] = {
        "model": model or settings.default_model,
        "messages": messages,
        "params": {name: value for name, value in params.items() if name != "fallbacks"},
        "tenant": tenant or settings.tenant,
        "use_cache": use_cache and settings.cache_enabled,
        "cache_ttl_s": cache_ttl,
        "tags": tuple(tags),
        "timeout_s": timeout_s,
        "priority": priority_of(priority),
        "fallbacks": params.get("fallbacks") or (),
    }
    try:
        request = CompletionRequest.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error)) from None
    _check_size(request, settings.max_prompt_bytes)
    return request


def request_of(settings: Settings, prompt: Prompt, options: Mapping[str, object]) -> CompletionRequest:
    """The request for options as `LLMClient.request` takes them. Raises what build_request raises."""
    ours = {name: value for name, value in options.items() if name in _OURS}
    params = {name: value for name, value in options.items() if name not in _OURS}
    return build_request(settings, prompt, params=params, **cast("dict[str, Any]", ours))


def _turns(prompt: Prompt) -> list[object]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"a prompt is a text or a list of messages, not of type {type(prompt).__name__}")
    return list(prompt)


def priority_of(priority: Priority | str | int) -> Priority:
    """The priority of this name or number. Raises InvalidRequest."""
    try:
        return Priority[priority.upper()] if isinstance(priority, str) else Priority(priority)
    except (KeyError, ValueError):
        allowed = ", ".join(f"{step.name.lower()} ({int(step)})" for step in Priority)
        raise InvalidRequest(f"priority is none of {allowed}") from None


def _check_params(params: Mapping[str, object]) -> None:
    for name, value in params.items():
        if is_secret_name(name):
            raise SecretInRequest(name)
        if name in _NOT_YOURS:
            raise InvalidRequest(f"{name} is no parameter of a request: {_NOT_YOURS[name]}")
        if name in ("extra_headers", "extra_body") and isinstance(value, Mapping):
            _check_params(cast("Mapping[str, object]", value))
    if params.get("n") not in (None, 1):
        raise InvalidRequest("n: one answer a request; submit it again, with use_cache=False, for another")


def _check_size(request: CompletionRequest, limit_bytes: int) -> None:
    messages = request.messages
    if not any(message.content or message.model_extra for message in messages) or _is_blank(messages[-1]):
        raise InvalidRequest("the prompt is empty")
    texts = [message.content for message in messages if isinstance(message.content, str)]
    if not all(map(is_unicode, texts)):
        raise InvalidRequest(_HALF)
    # Four bytes is a character's longest form: most requests need no exact count.
    if len(texts) == len(messages) and not request.params and sum(map(len, texts)) * 4 <= limit_bytes:
        return
    size_bytes = _size_bytes(request)
    if size_bytes > limit_bytes:
        raise PromptTooLarge(size_bytes, limit_bytes)


def _size_bytes(request: CompletionRequest) -> int:
    try:
        return len(request.model_dump_json(include={"messages", "params"}).encode())
    except PydanticSerializationError as error:
        if "surrogates" in str(error):
            raise InvalidRequest(_HALF) from None
        raise


def _is_blank(message: Message) -> bool:
    return message.role == "user" and isinstance(message.content, str) and not message.content.strip()
