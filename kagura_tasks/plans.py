"""Prompts that a worker renders: what came before becomes their variables. Error envelopes, which may be among it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, cast

from pydantic import Field, ValidationError

from kagura_tasks.errors import InvalidRequest, KaguraTasksError, PromptError, PromptTooLarge, rebuild
from kagura_tasks.prompts import PromptTemplate
from kagura_tasks.schemas import CompletionRequest, Json, Message, Wire, completion_from_wire, problems_of

#: What a failure does to a task: it fails, or its result is an envelope around the error.
OnError = Literal["raise", "collect"]

#: Variables of a reduction's template beside its parts.
_ABOUT_PARTS: Final = frozenset({"failed", "count"})


class ReducePlan(Wire):
    """How one prompt is made of what came before.

    Attributes:
        template: Jinja2; see prompts.PromptTemplate.
        takes: The variable that what came before becomes.
        form: As what. "parts": the list of the texts, with `failed` and `count` beside it, and in levels where that is
            too much for the model. "texts": the list alone. "text": the texts, joined. "value": the texts, those that
            are a JSON object or array as such; of one text, it alone.
        given: The other variables.
        request: A CompletionRequest as JSON, without its messages.
        context_tokens: Tokens that the model takes, prompt and answer together; None is what the workers know of it.
        max_prompt_bytes: Largest prompt.
    """

    template: str
    takes: str = "parts"
    form: Literal["parts", "texts", "text", "value"] = "parts"
    given: Json = Field(default_factory=dict)
    request: Json
    context_tokens: int | None = Field(default=None, gt=0)
    max_prompt_bytes: int = Field(default=1_000_000, gt=0)

    @property
    def names(self) -> frozenset[str]:
        """The variables that the template may use."""
        return self._other_names | {self.takes}

    def check(self) -> None:
        """Raise PromptError where the template is none, or InvalidRequest where the rest is no request."""
        if self.takes in self._other_names:
            raise PromptError(f"{self.takes} is the name of another variable: take what came before by another one")
        _ = self._template
        _ = self.asks("?")

    def prompt(self, parts: Sequence[str], failed: Sequence[Json] = (), count: int | None = None) -> str:
        """The prompt over these parts. Raises PromptError or PromptTooLarge.

        Args:
            parts: The texts.
            failed: The types of the errors of what failed.
            count: How many there were at first, both kinds together; default: as many as are given.
        """
        values: dict[str, object] = {**self.given, self.takes: self._formed(parts)}
        if self.form == "parts":
            values |= {"failed": list(failed), "count": len(parts) + len(failed) if count is None else count}
        prompt = self._template.render(values, self.max_prompt_bytes)
        if (size_bytes := len(prompt.encode("utf-8", "replace"))) > self.max_prompt_bytes:
            raise PromptTooLarge(size_bytes, self.max_prompt_bytes)
        return prompt

    def asks(self, prompt: str) -> CompletionRequest:
        """What is asked with this prompt. Raises InvalidRequest."""
        if not prompt:
            raise InvalidRequest("the prompt is empty")
        messages = (Message(role="user", content=prompt),)
        try:
            return CompletionRequest.model_validate({**self.request, "messages": messages})
        except ValidationError as error:
            raise InvalidRequest(problems_of(error)) from None

    def _formed(self, parts: Sequence[str]) -> object:
        if self.form == "text":
            return "\n\n".join(parts)
        if self.form == "value":
            values = [_value_of(part) for part in parts]
            return values[0] if len(values) == 1 else values
        return list(parts)

    @property
    def _other_names(self) -> frozenset[str]:
        return frozenset(self.given) | (_ABOUT_PARTS if self.form == "parts" else frozenset[str]())

    @property
    def _template(self) -> PromptTemplate:
        return _parsed(self.template, self.names)


def enveloped(error: KaguraTasksError) -> Json:
    """The error as a task's result."""
    return cast(Json, {"error": {"type": type(error).__name__, "args": list(error.args)}})


def error_in(result: object) -> KaguraTasksError | None:
    """The error in an envelope; None where the result is none."""
    if not (isinstance(result, dict) and set(cast("Json", result)) == {"error"}):
        return None
    match cast("Json", result)["error"]:
        case {"type": str(kind), "args": list(args)}:
            return rebuild(kind, cast("list[object]", args))
        case _:
            return None


def parts_of(before: object) -> tuple[list[str], list[Json]]:
    """The texts of what succeeded, and the errors' types of what failed: `{"type": ...}`. Each in order.

    Takes results of this package's tasks, and of others, in lists of lists as a canvas gives them. Of a completion it
    is the text, of anything else that is no text the JSON. None is nothing.
    """
    parts: list[str] = []
    failed: list[Json] = []
    for result in _flat(before):
        if (error := error_in(result)) is not None:
            failed.append({"type": type(error).__name__})
        else:
            parts.append(_text_of(result))
    return parts, failed


def _flat(before: object) -> list[object]:
    if before is None:
        return []
    if not isinstance(before, (list, tuple)):
        return [before]
    return [result for item in cast("Sequence[object]", before) for result in _flat(item)]


def _text_of(result: object) -> str:
    if isinstance(result, str):
        return result
    try:
        return completion_from_wire(cast("Mapping[str, object]", result)).text
    except ValidationError:
        return json.dumps(result, ensure_ascii=False)


def _value_of(text: str) -> object:
    """A number or a word is also JSON, but it is meant as a text."""
    try:
        value = cast(object, json.loads(text))
    except (ValueError, RecursionError):
        return text
    return cast(object, value) if isinstance(value, (dict, list)) else text


@lru_cache(maxsize=64)
def _parsed(template: str, names: frozenset[str]) -> PromptTemplate:
    """Each partial prompt of a reduction comes from the same one."""
    return PromptTemplate.parse(template, names, "a signature")
