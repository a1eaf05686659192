"""Which requests go on the wire as they are. Whatever is not listed here, LiteLLM has to translate."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from kagura_tasks.schemas import CompletionRequest, Json, Message


@dataclass(frozen=True)
class Route:
    """Where a model's calls go, as LiteLLM would send them.

    Attributes:
        provider: LiteLLM's name of the provider.
        model: The model's name as the provider knows it.
        url: The address of its chat completions.
        headers: With the key.
        verify: How the server's certificate is checked.
        params: The parameters that the model takes.
        rewritten: Words in a tool's schema that LiteLLM does something about.
        tells_usage: The provider ends a stream with its usage where it is asked to.
        only_text: A message with parts is LiteLLM's to put together.
    """

    provider: str
    model: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    verify: ssl.SSLContext | bool
    params: frozenset[str]
    rewritten: frozenset[str]
    tells_usage: bool
    only_text: bool = False


def is_number(value: object) -> bool:
    """A finite number of JSON; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_stop(value: object) -> bool:
    # LiteLLM cuts a longer list.
    return isinstance(value, str) or (_is_list(value) and len(cast("list[object]", value)) <= 4 and _all(str, value))


def _is_tool_choice(value: object) -> bool:
    return value in ("auto", "none", "required") or (
        _has_only(value, "type", "function") and cast(Json, value).get("type") == "function"
    )


def _is_response_format(value: object) -> bool:
    return _has_only(value, "type", "json_schema") and isinstance(cast(Json, value).get("type"), str)


def _is_functions(value: object) -> bool:
    """Tools are functions; what their schemas may hold depends on the route."""
    return _is_list(value) and bool(value) and all(map(_is_function, cast("list[object]", value)))


def _is_function(tool: object) -> bool:
    if not _has_only(tool, "type", "function") or cast(Json, tool).get("type") != "function":
        return False
    function = cast(Json, tool).get("function")
    if not _has_only(function, "name", "description", "parameters", "strict"):
        return False
    schema = cast(Json, function).get("parameters", {})
    return isinstance(schema, dict) and _COMBINATORS.isdisjoint(schema)


#: Parameters that LiteLLM hands on unchanged, and the values for which it does.
PARAMS: Final[dict[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), is_number),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "seed", "top_logprobs"), _is_whole),
    **dict.fromkeys(("logprobs", "parallel_tool_calls"), lambda value: isinstance(value, bool)),
    **dict.fromkeys(("user",), lambda value: isinstance(value, str)),
    "n": lambda value: _is_whole(value) and value == 1,
    "stop": _is_stop,
    "logit_bias": lambda value: isinstance(value, dict) and value != {},
    "tools": _is_functions,
    "tool_choice": _is_tool_choice,
    "response_format": _is_response_format,
}

#: Parameters that say how a request is sent, and are not part of it.
_ENVELOPE: Final = frozenset({"api_base", "extra_body", "extra_headers"})

#: At the top of a function's schema OpenAI does not take them, and LiteLLM takes them out.
_COMBINATORS: Final = frozenset({"oneOf", "anyOf", "allOf", "enum", "const", "not"})

#: The fields of a message of each role. Others are LiteLLM's to judge.
_MESSAGE_FIELDS: Final = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}

#: Names of headers that are ours, the connection's or the key's.
_OUR_HEADERS: Final = re.compile(
    r"(authorization|proxy-.*|api-key|openai-.*|content-.*|accept.*|user-agent|host|cookie|connection|expect"
    r"|keep-alive|te|trailer|transfer-encoding|upgrade)\Z",
    re.IGNORECASE,
)
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?\Z")

#: The fields of a content part's object; a text has none.
_PART_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "text": (),
    "image_url": ("url", "detail"),
    "input_audio": ("data", "format"),
}


def body_of(request: CompletionRequest, route: Route) -> Json | None:
    """The request as it goes on the wire; None where only LiteLLM knows how it does."""
    sampling = {name: value for name, value in request.params.items() if name not in _ENVELOPE}
    extra = request.params.get("extra_body", {})
    if not isinstance(extra, dict) or not _fits(sampling, route) or not extra.keys().isdisjoint(_NOT_EXTRA):
        return None
    messages = [_message(message, route) for message in request.messages]
    return None if None in messages else cast(Json, {"model": route.model, "messages": messages, **sampling, **extra})


_NOT_EXTRA: Final = frozenset({*PARAMS, *_ENVELOPE, "model", "messages", "stream", "stream_options", "metadata"})


def headers_of(request: CompletionRequest) -> dict[str, str] | None:
    """The request's own headers; None where one is not the caller's to set."""
    found = request.params.get("extra_headers", {})
    if not isinstance(found, dict) or not all(_is_header(name, value) for name, value in found.items()):
        return None
    return cast("dict[str, str]", found)


def _is_header(name: str, value: object) -> bool:
    if not isinstance(value, str) or not _HEADER_NAME.match(name) or _OUR_HEADERS.match(name):
        return False
    return bool(_HEADER_VALUE.match(value))


def _fits(sampling: Json, route: Route) -> bool:
    if not all(name in route.params and PARAMS[name](value) for name, value in sampling.items()):
        return False
    if "tools" in sampling:
        return route.rewritten.isdisjoint(_words(sampling["tools"]))
    return "tool_choice" not in sampling and "parallel_tool_calls" not in sampling


def _message(message: Message, route: Route) -> Json | None:
    """The turn as LiteLLM would send it; None where that is for LiteLLM to say."""
    turn = message.to_json()
    if route.only_text and _is_list(turn.get("content")):
        return None
    if not turn.keys() <= _MESSAGE_FIELDS.get(message.role, set()):
        return None
    plain = _is_content(turn.get("content"), message.role)
    return turn if plain and _is_calls(turn) and None not in turn.values() else None


def _is_content(content: object, role: str) -> bool:
    if content is None:
        return role == "assistant"
    if isinstance(content, str):
        return True
    return role == "user" and bool(content) and all(map(_is_part, cast("list[object]", content)))


def _is_part(part: Any) -> bool:
    """A part that LiteLLM does not touch: text, an image by address, sound."""
    kind = cast(Json, part).get("type") if _is_object(part) else None
    fields = _PART_FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None or not _has_only(part, "type", str(kind)):
        return False
    held = cast(Json, part).get(str(kind))
    return _has_only(held, *fields) if fields else isinstance(held, str)


def _is_calls(turn: Json) -> bool:
    """Earlier calls of tools, in exactly OpenAI's form; an assistant says something or calls one."""
    calls = turn.get("tool_calls", [])
    if not isinstance(calls, list) or (not calls and "content" not in turn):
        return False
    return all(_has_only(call, "id", "type", "function") and _is_call(cast(Json, call)) for call in calls)


def _is_call(call: Json) -> bool:
    function = call.get("function")
    return _has_only(function, "name", "arguments") and _all(str, cast(Json, function).values())


def _has_only(value: object, *names: str) -> bool:
    """An object with these fields and no others; the first of them is there."""
    return isinstance(value, dict) and names[0] in value and cast(Json, value).keys() <= set(names)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _all(kind: type, values: object) -> bool:
    return all(isinstance(value, kind) for value in cast("Iterable[object]", values))


def _words(value: object) -> set[str]:
    """Every key, at any depth."""
    if isinstance(value, list):
        return set[str]().union(*map(_words, cast("list[object]", value)))
    held = cast(Json, value) if isinstance(value, dict) else {}
    return set(held).union(*map(_words, held.values()))
