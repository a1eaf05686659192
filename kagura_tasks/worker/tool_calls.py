"""Runs one call of a tool: whatever the function does, the worker lives, and the model is told in a text."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pydantic_core import to_json

from kagura_tasks.errors import ToolError
from kagura_tasks.schemas import Json, Message
from kagura_tasks.tools.arguments import ArgumentsInvalid
from kagura_tasks.tools.call import ToolContext, answering
from kagura_tasks.tools.marking import Tool
from kagura_tasks.worker.tool_bodies import ProgramEnded, result_of

log = logging.getLogger(__name__)

#: Characters of a name that the model made up, as it is told.
_MOST_OF_A_NAME: Final = 64

#: What providers take in no name.
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")

#: Fields of a call that are written anew; a stream's number of a call means nothing later.
_OURS: Final = frozenset({"id", "type", "function", "index"})


@dataclass(frozen=True)
class ToolCall:
    """What a model asks for.

    Attributes:
        id: Its own name for the call.
        name: Of a function, perhaps one that it made up.
        arguments: JSON, perhaps not quite.
        more: What else the provider put into the call, and may want back.
    """

    id: str
    name: str
    arguments: str
    more: Json = field(default_factory=dict)

    @classmethod
    def read(cls, call: Json, otherwise: str) -> ToolCall:
        """The call in whatever a model wrote. `otherwise` is its id where it has none."""
        function = _object(call.get("function"))
        arguments = function.get("arguments") or ""
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        more: Json = {name: value for name, value in call.items() if name not in _OURS and value is not None}
        return cls(str(call.get("id") or otherwise), str(function.get("name") or ""), written, more)

    @property
    def digest(self) -> str:
        """Equal for calls of one function with one text of arguments."""
        return hashlib.sha256(json.dumps([self.name, self.arguments]).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The call in OpenAI's form, as each provider takes it back: with a name, and arguments that are an object."""
        name = _NO_NAME.sub("_", self.name)[:_MOST_OF_A_NAME] or "unknown"
        arguments = self.arguments if _is_object(self.arguments) else "{}"
        return {**self.more, "id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}

    def answered(self, text: str) -> Message:
        """The turn that tells the model what came of it."""
        return Message.model_validate({"role": "tool", "tool_call_id": self.id, "content": text})


@dataclass(frozen=True)
class ToolRunner:
    """Runs tools, each for a bounded time, and cuts what they say to a bounded size."""

    timeout_s: float
    result_bytes: int

    async def run(self, tools: dict[str, Tool], call: ToolCall, context: ToolContext) -> str:
        """What the model is told. Nothing of what goes wrong in the tool comes out of here but that.

        Args:
            tools: Those that it may ask for, by name.
            call: What it asks for.
            context: What the tool may know of the call.
        """
        tool = tools.get(call.name)
        if tool is None:
            return _problem(f"there is no tool {call.name[:_MOST_OF_A_NAME]!r}; there are: {', '.join(tools)}")
        try:
            arguments = tool.arguments.read(call.arguments)
        except ArgumentsInvalid as error:
            return _problem(f"the arguments do not fit: {error}")
        with answering(context):
            return self._cut(await self._told(tool, arguments))

    async def _told(self, tool: Tool, arguments: dict[str, Any]) -> str:
        timeout_s = tool.timeout_s or self.timeout_s
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return _text_of(await result_of(tool.function, arguments))
        except asyncio.CancelledError:
            # Its own doing, unless somebody has cancelled this task.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return _failed(tool, "CancelledError")
        except ToolError as error:
            return _problem(str(error))
        except ProgramEnded as error:
            return _failed(tool, str(error))
        except Exception as error:  # noqa: BLE001 (it is anybody's code)
            if limit.expired():
                log.warning("the tool %s has not ended within %g s", tool.place, timeout_s)
                return _problem(f"{tool.name} did not answer within {timeout_s:g} s")
            return _failed(tool, type(error).__name__)

    def _cut(self, text: str) -> str:
        written = text.encode("utf-8", "replace")
        if len(written) <= self.result_bytes:
            return written.decode()
        kept = written[: self.result_bytes].decode("utf-8", "ignore")
        return f"{kept}\n[cut: these are the first {self.result_bytes:,} of {len(written):,} bytes]"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _text_of(result: object) -> str:
    """A text as it is, all else as JSON. Raises what serialising raises."""
    return result if isinstance(result, str) else to_json(result).decode()


def _failed(tool: Tool, kind: str) -> str:
    """The class's name alone: an error's text may hold a password, or another user's data."""
    log.warning("the tool %s failed with %s", tool.place, kind)
    return _problem(f"{tool.name} failed with {kind}")


def _problem(text: str) -> str:
    return json.dumps({"error": text}, ensure_ascii=False)
