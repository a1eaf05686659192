"""From a row of a file to an item of a map: whatever can be known to be wrong is refused here, before it is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from kagura_tasks.errors import InvalidRequest, PromptError
from kagura_tasks.groups import MapItem
from kagura_tasks.prompts import PromptTemplate
from kagura_tasks.requests import build_request
from kagura_tasks.schemas import CompletionRequest, Json, Priority
from kagura_tasks.settings import Settings

#: How a file's rows are written: our own form, or that of OpenAI's Batch API.
RowFormat = Literal["rows", "batch"]

_ID: Final = re.compile(r"[^\x00-\x1f\x7f]{1,512}")

_NAMES: Final = frozenset({"custom_id", "id"})
_OF_A_ROW: Final = _NAMES | {"prompt", "messages", "model", "params"}
_OF_A_BATCH_ROW: Final = _NAMES | {"method", "url", "body"}

#: The one endpoint of the Batch API that is a chat, as OpenAI and as Azure write it.
_CHAT_URLS: Final = ("/v1/chat/completions", "/chat/completions")


@dataclass(frozen=True)
class RowOptions:
    """What is said about all rows of a file. It wins over what a row says about itself.

    Attributes:
        settings: Defaults and limits.
        template: Makes the prompt out of a row's fields; None where each row is a request of its own.
        model: LiteLLM's name of the model.
        system: A system message, for rows that have none.
        params: Parameters of the calls.
        tenant: Whose data this is.
        use_cache: Look for remembered answers, and remember these.
    """

    settings: Settings
    template: PromptTemplate | None = None
    model: str | None = None
    system: str | None = None
    params: Mapping[str, object] = field(default_factory=dict[str, object])
    tenant: str | None = None
    use_cache: bool = True

    def format_of(self, row: Json) -> RowFormat:
        """The form in which this row is written."""
        return "batch" if self.template is None and "body" in row else "rows"

    def item(self, row: Json, line: int) -> MapItem:
        """The item that this row asks for. Raises InvalidRequest, which quotes no value of the row."""
        if self.template is not None:
            text = _rendered(self.template, row, self.settings.max_prompt_bytes)
            request = self._request(_question(text), None, {})
        elif self.format_of(row) == "batch":
            request = self._batch_request(row)
        else:
            request = self._row_request(row)
        return MapItem(prompt=request, custom_id=_custom_id(row, line))

    def _row_request(self, row: Json) -> CompletionRequest:
        _refuse_others(row, _OF_A_ROW, "parameters belong into `params`; --template takes rows with any fields")
        if ("prompt" in row) == ("messages" in row):
            raise InvalidRequest("needs `prompt` or `messages`" + (", not both" if "prompt" in row else ""))
        turns = _question(row["prompt"]) if "prompt" in row else row["messages"]
        return self._request(turns, row.get("model"), row.get("params", {}))

    def _batch_request(self, row: Json) -> CompletionRequest:
        _refuse_others(row, _OF_A_BATCH_ROW, "parameters belong into `body`")
        if row.get("method", "POST") != "POST" or row.get("url", _CHAT_URLS[0]) not in _CHAT_URLS:
            raise InvalidRequest(f"asks for something else than POST {_CHAT_URLS[0]}")
        body = row["body"]
        if not isinstance(body, dict):
            raise InvalidRequest("body: not a JSON object")
        params = {name: value for name, value in body.items() if name not in ("model", "messages")}
        # "No stream" is what every answer of a batch is.
        if params.get("stream") is False:
            del params["stream"]
        return self._request(body.get("messages"), body.get("model"), params)

    def _request(self, turns: object, model: object, params: object) -> CompletionRequest:
        if not isinstance(params, dict):
            raise InvalidRequest("params: not a JSON object")
        if not (model is None or isinstance(model, str)):
            raise InvalidRequest("model: not a text")
        return build_request(
            self.settings,
            self._turns(turns),
            model=self.model or model,
            use_cache=self.use_cache,
            tenant=self.tenant,
            priority=Priority.BATCH,
            params={**cast("dict[str, object]", params), **self.params},
        )

    def _turns(self, turns: object) -> list[Mapping[str, object]]:
        if not isinstance(turns, list):
            raise InvalidRequest("messages: not a list")
        given = cast("list[Mapping[str, object]]", turns)
        if self.system is None or _has_system(given):
            return given
        return [{"role": "system", "content": self.system}, *given]


def _rendered(template: PromptTemplate, row: Json, limit_bytes: int) -> str:
    try:
        return template.render(row, limit_bytes)
    except PromptError:
        if missing := sorted(template.names - row.keys()):
            raise InvalidRequest(f"lacks {', '.join(missing)}, which the template uses") from None
        raise


def _custom_id(row: Json, line: int) -> str:
    """What its answer is found by: its own name, or else the number of its line."""
    name = row.get("id") if row.get("custom_id") is None else row["custom_id"]
    if name is None:
        return str(line)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise InvalidRequest("custom_id (or id): neither a text nor a whole number")
    text = str(name)
    if not _ID.fullmatch(text):
        raise InvalidRequest("custom_id (or id): not 1 to 512 characters in one line")
    return text


def _refuse_others(row: Json, known: frozenset[str], hint: str) -> None:
    """A slip in a name must not become a call without what it says. A name is told only where it can be one."""
    if others := sorted(row.keys() - known):
        told = others[0] if len(others[0]) <= 64 and others[0].isprintable() else "..."
        raise InvalidRequest(f"has the field {told}, which means nothing here ({hint})")


def _question(text: object) -> list[Mapping[str, object]]:
    """The one turn of the user's that a prompt is."""
    if not isinstance(text, str):
        raise InvalidRequest("prompt: not a text (chat turns belong into `messages`)")
    return [{"role": "user", "content": text}]


def _has_system(turns: list[Mapping[str, object]]) -> bool:
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    return bool({"system", "developer"} & {role for role in roles if isinstance(role, str)})
