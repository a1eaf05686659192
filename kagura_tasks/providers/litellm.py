"""Every model that LiteLLM knows. The only file that imports it: it takes seconds, and 200 MB."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Final, cast
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
    RequestRefused,
    UnknownModel,
)
from kagura_tasks.providers import addresses, compatible, wire
from kagura_tasks.providers.executor import RequestsInline
from kagura_tasks.providers.foreign_answers import completion_in, usage_in, vectors_in
from kagura_tasks.providers.foreign_errors import details, retry_after_s, said, status_of
from kagura_tasks.providers.foreign_stream import STREAMED, ForeignStream, error_in_stream
from kagura_tasks.providers.plain import Route
from kagura_tasks.providers.prices import Billed
from kagura_tasks.providers.provider import HandOver
from kagura_tasks.providers.transient import TOO_LATE, by_litellm, by_status
from kagura_tasks.providers.written import Written
from kagura_tasks.schemas import Completion, CompletionRequest, Json, Usage

# What LiteLLM has no types for, or no public name.
_main = cast(Any, import_module("litellm.main"))
_configs = cast(Any, import_module("litellm.utils")).ProviderConfigManager
_read = cast(Any, import_module("litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response"))
_http = cast(Any, import_module("litellm.llms.custom_httpx.http_handler"))

#: Seconds after `timeout_s` at which a call is given up that LiteLLM itself did not end.
_GRACE_S: Final = 1.0

#: LiteLLM's errors and ours, first match first: some of theirs are subclasses of others.
_PERMANENT: Final[list[tuple[type[Exception], type[PermanentError], str]]] = [
    (foreign.AuthenticationError, AuthenticationFailed, wire.BAD_KEY),
    (foreign.PermissionDeniedError, AuthenticationFailed, "the worker's key may not do this"),
    (foreign.ContextWindowExceededError, ContextTooLong, wire.TOO_LONG),
    (foreign.ContentPolicyViolationError, ContentRefused, wire.FILTERED),
    (foreign.NotFoundError, UnknownModel, wire.UNKNOWN),
    (foreign.UnsupportedParamsError, RequestRefused, "the model does not take a parameter of the request"),
    (foreign.BadRequestError, RequestRefused, wire.REFUSED),
    (foreign.UnprocessableEntityError, RequestRefused, wire.REFUSED),
]


def prepare() -> None:
    """Make LiteLLM a plain caller: our own cache, retries and records replace its. Once a process, before it forks."""
    setattr(litellm, "telemetry", False)  # noqa: B010 (it is read, but not declared)
    litellm.cache = None
    litellm.num_retries = 0
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    # A model may well write a hundred equal lines; it is no error.
    setattr(litellm, "REPEATED_STREAMING_CHUNK_LIMIT", sys.maxsize)  # noqa: B010 (as above)
    # Tokens are counted with what is installed: some tokenizers would be fetched, with retries.
    litellm.disable_hf_tokenizer_download = True
    # An empty key is no key, but LiteLLM would send it.
    for name in [name for name, value in os.environ.items() if name.endswith("_API_KEY") and not value.strip()]:
        del os.environ[name]
    # Its log lines may quote prompts and keys; whatever matters in them is in the errors that we raise.
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).disabled = True
    # LiteLLM's OpenAI client loads its parts at the first call, in the middle of the event loop: half a second.
    import_module("openai.resources.chat.completions")
    # So do its routes and prices, whichever model is asked for.
    _ = _route("hosted_vllm/none", "http://localhost/v1"), addresses.of_openai("none", "http://localhost/v1")
    _ = LiteLLMProvider().cost_usd(Billed("openai", "gpt-4o-mini", "", None), {"prompt_tokens": 1})
    # What the import made lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()


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
                response = await self._call(request, timeout_s, heard, {})
            return completion_in(response, request.model, heard)
        except Exception as error:  # noqa: BLE001 (the border: LiteLLM lets through whatever a provider's code raises)
            raise translate(error, request) from None

    async def stream(self, request: CompletionRequest, timeout_s: float, hand_over: HandOver) -> Completion:
        """See Provider."""
        written = Written(request.model, hand_over)
        self._prepare(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                chunks = await self._call(request, timeout_s, [], STREAMED)
        except Exception as error:  # noqa: BLE001 (the border, as above)
            raise translate(error, request) from None
        stream = ForeignStream(chunks, timeout_s + _GRACE_S, lambda error: translate(error, request))
        await stream.follow(written)
        completion = _read_answer(stream.answer(written), *_named(request.model), request)
        told = completion.usage if completion.usage.prompt_tokens else await self.count(request, written.counted_text)
        return completion.model_copy(update={"text": written.text, "usage": told})

    async def count(self, request: CompletionRequest, text: str) -> Usage:
        """See Provider."""
        return await asyncio.to_thread(self._count, request, text)

    def _count(self, request: CompletionRequest, text: str) -> Usage:
        provider, name = _named(request.model)
        count = cast(Any, litellm.token_counter)
        prompt = completion = 0
        with suppress(Exception):  # content that LiteLLM cannot count
            completion = count(model=name, text=text, count_response_tokens=True) if text else 0
            messages = [message.to_json() for message in request.messages]
            # Images would be fetched, to be measured.
            prompt = count(
                model=name, messages=messages, tools=request.params.get("tools"), use_default_image_token_count=True
            )
        used = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
        cost = self.cost_usd(Billed(provider, name, "", None), used.model_dump(exclude={"cost_usd"}))
        return used.model_copy(update={"cost_usd": cost})

    async def embed(self, model: str, texts: Sequence[str], timeout_s: float) -> list[list[float]]:
        """See Provider."""
        self._prepare(asyncio.get_running_loop())
        call = cast(Any, litellm.aembedding)
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                response = await call(model=model, input=list(texts), timeout=timeout_s, num_retries=0, max_retries=0)
            return vectors_in(response, len(texts))
        except Exception as error:  # noqa: BLE001 (the border, as above)
            raise translate(error, CompletionRequest.model_construct(model=model)) from None

    def context_window(self, model: str) -> int | None:
        """See Provider. LiteLLM's own function asks some providers over the network."""
        known = cast("dict[str, dict[str, object]]", litellm.model_cost)
        tokens = (known.get(model) or known.get(_named(model)[1]) or {}).get("max_input_tokens")
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        """See Provider."""
        return await asyncio.to_thread(lambda: [_tokens(_named(model)[1], text) for text in texts])

    def route(self, model: str, api_base: str | None) -> Route | None:
        """Where the model's calls go if they need no translation; None where LiteLLM has to make them."""
        if any(map(_is_set, compatible.OWN_WAYS)):
            return None
        return _route(model, api_base, *map(os.environ.get, (*addresses.VARIABLES, *compatible.VARIABLES)))

    def read(self, answer: Json, route: Route, request: CompletionRequest) -> Completion:
        """The completion in an answer that LiteLLM did not fetch. Raises ProviderUnavailable where there is none."""
        return _read_answer(answer, route.provider, route.model, request)

    def cost_usd(self, billed: Billed, used: Json) -> float | None:
        """What an answer with this usage costs (USD); None where the price map does not know the model."""
        choice: Json = {"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        answer: Json = {"model": billed.answered_by, "service_tier": billed.service_tier, "choices": [choice]}
        return usage_in(_response_in({**answer, "usage": used}, billed.provider, billed.model)).cost_usd

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in self._loops:
            self._loops.add(loop)
            loop.set_default_executor(RequestsInline(thread_name_prefix="kagura-executor"))

    async def _call(self, request: CompletionRequest, timeout_s: float, heard: list[str], delivery: Json) -> Any:
        def listen(details: Mapping[str, object]) -> None:
            if details.get("log_event_type") == "post_api_call":
                heard[:] = [str(details.get("original_response"))]

        call = cast(Any, litellm.acompletion)
        return await call(
            model=request.model,
            messages=[message.to_json() for message in request.messages],
            timeout=timeout_s,
            num_retries=0,
            max_retries=0,
            caching=False,
            logger_fn=listen,
            # Where there are tools, LiteLLM imports its gateway for them, which wants a package that it does not bring.
            _skip_mcp_handler=True,
            **{**request.params, **delivery},
        )


def _tokens(name: str, text: str) -> int:
    with suppress(Exception):  # a text that the tokenizer does not take
        return int(cast(Any, litellm.token_counter)(model=name, text=text))
    return len(text.encode("utf-8", "replace")) // 3 + 1


def _is_set(name: str) -> bool:
    """Not by LiteLLM itself: a call of Gemini leaves the callback of a cache behind that nobody uses."""
    value = getattr(litellm, name, None)
    return bool(value) and value != ["cache"]


@lru_cache(maxsize=256)
def _route(model: str, api_base: str | None, *_environment: str | None) -> Route | None:
    """The environment is an argument because the answer depends on it."""
    # Before LiteLLM is asked: for some other providers, asking begins with a login.
    if not compatible.speaks(model):
        return None
    try:
        return _route_to(*litellm.get_llm_provider(model, api_base=api_base))
    except Exception:  # noqa: BLE001 (the border: whatever it is, LiteLLM's own lane will say it)
        return None


def _route_to(name: str, provider: str, key: str | None, base: str | None) -> Route | None:
    dialect = compatible.DIALECTS[provider]
    config = _configs.get_provider_chat_config(name, _main.LlmProviders(provider))
    if type(config).__name__ not in dialect.writers or not _is_chat_model(name, provider, base):
        return None
    # Without a key or an address, LiteLLM says what is missing, or takes OpenAI's.
    if dialect.runs_tools(name) or (provider != "openai" and not (key and base)):
        return None
    url, headers = addresses.of_openai(key, base) if dialect.by_client else _as_written(config, name, key, base)
    verify = _http.get_ssl_configuration()
    if isinstance(verify, str) or not addresses.is_reached_directly(url):
        return None
    known = frozenset(cast("list[str]", config.get_supported_openai_params(name)))
    headers = {"User-Agent": "kagura-tasks", "Accept": "application/json", **headers}
    takes = known & dialect.params
    told = "stream_options" in known
    return Route(provider, name, url, headers, verify, takes, dialect.rewritten, told, dialect.only_text)


def _is_chat_model(name: str, provider: str, base: str | None) -> bool:
    """Chat completions are its way: not the older completions, not the newer responses."""
    bridge, _ = _main.responses_api_bridge_check(model=name, custom_llm_provider=provider, api_base=base)
    return bridge.get("mode") in (None, "chat") and "babbage-002" not in name and "davinci-002" not in name


def _as_written(config: Any, model: str, key: str | None, base: str | None) -> tuple[str, dict[str, str]]:
    """Address and headers, as LiteLLM's class for the provider writes them."""
    about: dict[str, Any] = {"model": model, "optional_params": {}, "litellm_params": {}, "api_key": key}
    headers = config.validate_environment(headers={}, messages=[], api_base=base, **about)
    return config.get_complete_url(api_base=base, **about), headers


def translate(error: Exception, request: CompletionRequest) -> ProviderError:
    """Our error for whatever came out of LiteLLM. Its text stays behind: it may quote the prompt or a key."""
    model, status = request.model, status_of(error)
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, foreign.MidStreamFallbackError) and error.original_exception:
        return error_in_stream(error.original_exception, request) or translate(error.original_exception, request)
    if isinstance(error, TimeoutError):
        return ProviderTimeout(TOO_LATE, model)
    if _is_unknown_to_litellm(error):
        return UnknownModel("LiteLLM does not know this model's provider", model)
    missing = missing_keys(model)
    if missing and _says_no_key(error):
        return AuthenticationFailed(f"this worker has no key: set {' or '.join(missing)} in its environment", model)
    if status in (401, 403):
        return AuthenticationFailed(wire.BAD_KEY, model, status)
    permanent = None if by_status(status) else _permanent(error, request, status)
    return permanent or _transient(error, request, status)


def _permanent(error: Exception, request: CompletionRequest, status: int) -> ProviderError | None:
    if (code := wire.code_word(said(error).get("code"))) in wire.CODES:
        ours, text = wire.CODES[code]
        return ours(text, request.model, status)
    for theirs, ours, text in _PERMANENT:
        if isinstance(error, theirs):
            return ours(text + details(error, request), request.model, status)
    return None


def _transient(error: Exception, request: CompletionRequest, status: int) -> ProviderError:
    model = request.model
    if (named := by_litellm(error)) is not None:
        return named.error(named.text, model, status if _has_status(error) else 0, retry_after_s(error))
    if (known := by_status(status)) is not None:
        return known.error(known.text, model, status, retry_after_s(error))
    if status:
        return RequestRefused(wire.REFUSED + details(error, request), model, status)
    return RequestRefused(f"LiteLLM cannot make this call ({type(error).__name__}){details(error, request)}", model)


@cache
def missing_keys(model: str) -> tuple[str, ...]:
    """The variables with a key that this model's provider wants and this process lacks."""
    with suppress(Exception):
        found = cast("dict[str, Any]", cast(Any, litellm).validate_environment(model))
        return tuple(name for name in found.get("missing_keys", ()) if name.endswith(("_KEY", "_KEY_ID")))
    return ()


def _says_no_key(error: Exception) -> bool:
    """A provider that answered has seen a key; all else may be the missing one in one of its many disguises."""
    return isinstance(error, foreign.AuthenticationError) or not _answered(error)


def _answered(error: Exception) -> bool:
    """The provider sent a status, as opposed to one that LiteLLM made up for a connection that failed."""
    if isinstance(error, (foreign.APIConnectionError, foreign.Timeout)):
        return False
    return bool(getattr(error, "litellm_response_headers", None)) or status_of(error) not in (0, 500)


def _has_status(error: Exception) -> bool:
    """The status is the provider's: LiteLLM gives one to timeouts and lost connections, too."""
    made_up = isinstance(error, foreign.Timeout) or status_of(error) == 500
    return not made_up or bool(getattr(error, "litellm_response_headers", None))


def _is_unknown_to_litellm(error: Exception) -> bool:
    return isinstance(error, foreign.BadRequestError) and "LLM Provider NOT provided" in str(error)


def _read_answer(answer: Json, provider: str, model: str, request: CompletionRequest) -> Completion:
    try:
        response = _response_in(answer, provider, model)
        return completion_in(response, request.model, [json.dumps(answer)])
    except Exception:  # noqa: BLE001 (the border: whatever LiteLLM makes of an answer that is none)
        raise ProviderUnavailable("the provider's answer cannot be read", request.model) from None


@lru_cache(maxsize=256)
def _named(model: str) -> tuple[str, str]:
    """Provider and name, as the price map and the tokenizers know them."""
    provider, _, name = model.partition("/")
    # Without asking LiteLLM where possible: for some providers, that begins with a login.
    if name and provider in litellm.provider_list:
        return provider, name
    with suppress(Exception):
        name, provider, *_ = litellm.get_llm_provider(model)
        return provider, name
    return "", model


def _response_in(answer: Json, provider: str, model: str) -> litellm.ModelResponse:
    """What LiteLLM would have made of the answer, with its price."""
    response = _verbatim(answer) if compatible.is_verbatim(provider) else _converted(answer, provider, model)
    price = cast(Any, litellm.response_cost_calculator)
    billed: dict[str, Any] = {
        "model": model,
        "custom_llm_provider": provider,
        "call_type": "acompletion",
        "optional_params": {},
    }
    hidden = cast("dict[str, Any]", response._hidden_params)  # pyright: ignore[reportPrivateUsage]
    with suppress(Exception):  # a model without a price
        hidden["response_cost"] = price(response_object=response, **billed)
    return response


def _verbatim(answer: Json) -> litellm.ModelResponse:
    """LiteLLM knows three of OpenAI's tiers here, and takes others for the first."""
    tier = answer.get("service_tier")
    return litellm.ModelResponse(**{**answer, "service_tier": tier if tier in ("default", "flex") else "auto"})


def _converted(answer: Json, provider: str, model: str) -> litellm.ModelResponse:
    response = litellm.ModelResponse(model=None if provider == "openai" else f"{provider}/{model}")
    setattr(response, "usage", litellm.Usage())  # noqa: B010 (it is read, but not declared)
    # LiteLLM reads what its own client hands over, and that puts fields in that are not there.
    for choice in cast("list[Any]", answer["choices"]):
        choice["message"].setdefault("role", "assistant")
    _ = _read.convert_to_model_response_object(response_object=answer, model_response_object=response)
    return response
