"""Every model that LiteLLM knows. The only file that imports it: it takes seconds, and 200 MB."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

# Before the import: LiteLLM would fetch its price map over the network, with retries.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# Before the import: LiteLLM loads a .env file from the working folder otherwise, in its development mode.
os.environ.setdefault("LITELLM_MODE", "PRODUCTION")

import litellm
from litellm import exceptions as foreign

from kagura_tasks.errors import (
    AuthenticationFailed,
    ContentRefused,
    ContextTooLong,
    PermanentError,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    TransientError,
    UnknownModel,
)
from kagura_tasks.schemas import Completion, CompletionRequest, Json, Usage

T = TypeVar("T")

#: Seconds after `timeout_s` at which a call is given up that LiteLLM itself did not end.
_GRACE_S: Final = 1.0

#: Providers whose requests are built without network access. (Others fetch tokens or tokenizers while they build.)
_BUILT_OFFLINE: Final = ("openai/", "hosted_vllm/", "gpt-")

#: LiteLLM's errors and ours, first match first: some of theirs are subclasses of others.
_PERMANENT: Final[list[tuple[type[Exception], type[PermanentError], str]]] = [
    (foreign.AuthenticationError, AuthenticationFailed, "the provider refused the worker's key"),
    (foreign.PermissionDeniedError, AuthenticationFailed, "the worker's key may not do this"),
    (foreign.ContextWindowExceededError, ContextTooLong, "prompt and answer do not fit the context window"),
    (foreign.ContentPolicyViolationError, ContentRefused, "the provider's safety filter refused the prompt"),
    (foreign.NotFoundError, UnknownModel, "the provider does not know this model"),
    (foreign.UnsupportedParamsError, RequestRefused, "the model does not take a parameter of the request"),
    (foreign.BadRequestError, RequestRefused, "the provider refused the request"),
    (foreign.UnprocessableEntityError, RequestRefused, "the provider refused the request"),
]
#: OpenAI's code words that say more than the class that LiteLLM makes of them.
_CODES: Final[dict[str, tuple[type[PermanentError], str]]] = {
    "context_length_exceeded": (ContextTooLong, "prompt and answer do not fit the context window"),
    "content_policy_violation": (ContentRefused, "the provider's safety filter refused the prompt"),
    "content_filter": (ContentRefused, "the provider's safety filter refused the prompt"),
    "model_not_found": (UnknownModel, "the provider does not know this model"),
}
_TRANSIENT: Final[list[tuple[type[Exception], type[TransientError], str]]] = [
    (foreign.RateLimitError, RateLimited, "the provider's rate limit is reached"),
    (foreign.Timeout, ProviderTimeout, "the provider did not answer in time"),
    (foreign.APIConnectionError, ProviderUnavailable, "the connection to the provider failed"),
    (foreign.InternalServerError, ProviderUnavailable, "the provider failed, or the connection to it"),
    (foreign.ServiceUnavailableError, ProviderUnavailable, "the provider is not available"),
    (foreign.BadGatewayError, ProviderUnavailable, "the provider is not available"),
]


def prepare() -> None:
    """Make LiteLLM a plain caller: our own cache, retries and records replace its. Once a process, before it forks."""
    setattr(litellm, "telemetry", False)  # noqa: B010 (it is read, but not declared)
    litellm.cache = None
    litellm.num_retries = 0
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    # An empty key is no key, but LiteLLM would send it.
    for name in [name for name, value in os.environ.items() if name.endswith("_API_KEY") and not value.strip()]:
        del os.environ[name]
    # Its log lines may quote prompts and keys; whatever matters in them is in the errors that we raise.
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).disabled = True
    # LiteLLM's OpenAI client loads its parts at the first call, in the middle of the event loop: half a second.
    import_module("openai.resources.chat.completions")
    # What the import made lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()


class RequestsInline(ThreadPoolExecutor):
    """An event loop's executor that makes LiteLLM's requests on the spot, and all else in threads.

    `acompletion` builds each request in the loop's executor. That is a millisecond of pure Python, so a thread wins
    nothing; with hundreds of Celery's threads in the process, the way there and back costs more than the work.
    Only for providers whose requests are built without network access. No longer needed where tasks are coroutines.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See Executor."""
        if not _builds_request(fn):
            return super().submit(fn, *args, **kwargs)
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (an executor hands over whatever its function raises)
            done.set_exception(error)
        return done


class LiteLLMProvider:
    """Calls through `litellm.acompletion`. Keys and addresses come from the environment, as LiteLLM reads it."""

    def __init__(self) -> None:
        """Nothing is opened yet."""
        self._loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """See Provider."""
        heard: list[str] = []
        self._prepare(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                response = await self._call(request, timeout_s, heard)
            return _completion(response, request.model, heard)
        except Exception as error:  # noqa: BLE001 (the border: LiteLLM lets through whatever a provider's code raises)
            raise translate(error, request) from None

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in self._loops:
            self._loops.add(loop)
            loop.set_default_executor(RequestsInline(thread_name_prefix="kagura-executor"))

    async def _call(self, request: CompletionRequest, timeout_s: float, heard: list[str]) -> litellm.ModelResponse:
        def listen(details: Mapping[str, object]) -> None:
            if details.get("log_event_type") == "post_api_call":
                heard[:] = [str(details.get("original_response"))]

        call = cast(Any, litellm.acompletion)
        response = await call(
            model=request.model,
            messages=[message.to_json() for message in request.messages],
            timeout=timeout_s,
            num_retries=0,
            max_retries=0,
            caching=False,
            logger_fn=listen,
            **request.params,
        )
        return cast(litellm.ModelResponse, response)


def translate(error: Exception, request: CompletionRequest) -> ProviderError:
    """Our error for whatever came out of LiteLLM. Its text stays behind: it may quote the prompt or a key."""
    model, status = request.model, _status_of(error)
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, TimeoutError):
        return ProviderTimeout("the provider did not answer in time", model)
    if _is_unknown_to_litellm(error):
        return UnknownModel("LiteLLM does not know this model's provider", model)
    missing = missing_keys(model)
    if missing and _says_no_key(error):
        return AuthenticationFailed(f"this worker has no key: set {' or '.join(missing)} in its environment", model)
    if status in (401, 403):
        return AuthenticationFailed("the provider refused the worker's key", model, status)
    return _permanent(error, request, status) or _transient(error, request, status)


def _permanent(error: Exception, request: CompletionRequest, status: int) -> ProviderError | None:
    if (code := _code_word(getattr(error, "code", None))) in _CODES:
        ours, text = _CODES[code]
        return ours(text, request.model, status)
    for theirs, ours, text in _PERMANENT:
        if isinstance(error, theirs):
            return ours(text + _details(error, request), request.model, status)
    return None


def _transient(error: Exception, request: CompletionRequest, status: int) -> ProviderError:
    model = request.model
    for theirs, ours, text in _TRANSIENT:
        if isinstance(error, theirs):
            return ours(text, model, status if status != 500 or _answered(error) else 0, _retry_after_s(error))
    if 400 <= status < 500 and status not in (408, 409, 425, 429):
        return RequestRefused("the provider refused the request" + _details(error, request), model, status)
    if status:
        return ProviderUnavailable("the provider is not available", model, status, _retry_after_s(error))
    return RequestRefused(f"LiteLLM cannot make this call ({type(error).__name__}){_details(error, request)}", model)


@cache
def missing_keys(model: str) -> tuple[str, ...]:
    """The variables with a key that this model's provider wants and this process lacks."""
    with suppress(Exception):
        found = cast("dict[str, Any]", cast(Any, litellm).validate_environment(model))
        return tuple(name for name in found.get("missing_keys", ()) if name.endswith(("_KEY", "_KEY_ID")))
    return ()


def _builds_request(function: Callable[..., object]) -> bool:
    """This is `acompletion`'s `partial(context.run, partial(completion, model=..., ...))`."""
    inner: object = function.args[0] if isinstance(function, functools.partial) and function.args else None
    if not isinstance(inner, functools.partial) or not inner.func.__module__.startswith("litellm"):
        return False
    return str(inner.keywords.get("model", "")).startswith(_BUILT_OFFLINE)


def _says_no_key(error: Exception) -> bool:
    """A provider that answered has seen a key; all else may be the missing one in one of its many disguises."""
    return isinstance(error, foreign.AuthenticationError) or not _answered(error)


def _answered(error: Exception) -> bool:
    """The provider sent a status, as opposed to one that LiteLLM made up for a connection that failed."""
    if isinstance(error, (foreign.APIConnectionError, foreign.Timeout)):
        return False
    return bool(getattr(error, "litellm_response_headers", None)) or _status_of(error) not in (0, 500)


def _is_unknown_to_litellm(error: Exception) -> bool:
    return isinstance(error, foreign.BadRequestError) and "LLM Provider NOT provided" in str(error)


def _status_of(error: Exception) -> int:
    status = getattr(error, "status_code", 0)
    return int(status) if isinstance(status, int | str) and str(status).isdigit() else 0


def _retry_after_s(error: Exception) -> float:
    """The provider's Retry-After. LiteLLM keeps it here: the headers of `error.response` are empty."""
    headers = cast("Mapping[str, str]", getattr(error, "litellm_response_headers", None) or {})
    lower = {name.lower(): value for name, value in dict(headers).items()}
    with suppress(KeyError, ValueError):
        return max(0.0, float(lower["retry-after-ms"]) / 1000)
    with suppress(KeyError, ValueError):
        return max(0.0, float(lower["retry-after"]))
    return 0.0


def _details(error: Exception, request: CompletionRequest) -> str:
    """What can be said safely: the provider's code words, and which of the request's parameters it speaks of."""
    words = [f"{name}={word}" for name in ("code", "param") if (word := _code_word(getattr(error, name, None)))]
    text = str(error)
    named = [name for name in request.params if name in text]
    if named and not any(word.startswith("param=") for word in words):
        words.append(f"parameters={','.join(named)}")
    return f": {', '.join(words)}" if words else ""


def _code_word(value: object) -> str:
    """A provider's identifier, such as unsupported_parameter. A sentence is none, and may quote the prompt."""
    return value if isinstance(value, str) and len(value) <= 64 and value.replace(".", "_").isidentifier() else ""


def _completion(response: litellm.ModelResponse, model: str, heard: Sequence[str]) -> Completion:
    choices = cast("list[Any]", response.choices)
    if not choices:
        raise ProviderUnavailable("the provider's answer has no choices", model)
    message = choices[0].message
    return Completion(
        text=message.content or "",
        model=model,
        finish_reason=_finish_reason(choices[0], heard),
        usage=_usage(response),
        tool_calls=tuple(cast(Json, call.model_dump(mode="json")) for call in message.tool_calls or ()),
    )


def _finish_reason(choice: Any, heard: Sequence[str]) -> str:
    """Why the model stopped; "" where it did not say.

    LiteLLM reads a missing reason, and one that it does not know, as "stop". The first can be seen only in the
    provider's own words, the second is kept aside. No longer needed once ModelResponse keeps a missing reason None.
    """
    extra = cast("dict[str, object]", getattr(choice, "provider_specific_fields", None) or {})
    native = extra.get("native_finish_reason")
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


def _usage(response: litellm.ModelResponse) -> Usage:
    used = cast(Any, getattr(response, "usage", None))
    cost = cast("dict[str, Any]", response._hidden_params).get("response_cost")  # pyright: ignore[reportPrivateUsage]
    return Usage(
        prompt_tokens=used.prompt_tokens or 0 if used else 0,
        completion_tokens=used.completion_tokens or 0 if used else 0,
        total_tokens=used.total_tokens or 0 if used else 0,
        cost_usd=cost,
    )
