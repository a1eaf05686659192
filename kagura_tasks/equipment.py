"""What an agent has beside its prompt: tools, and a memory of conversations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import ValidationError

from kagura_tasks.client import LLMClient
from kagura_tasks.conversations.memory import ConversationMemory
from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.errors import ConfigurationError, InvalidRequest
from kagura_tasks.schemas import CompletionRequest, ConversationBounds, ConversationUse, ToolUse, problems_of
from kagura_tasks.tools.marking import tool_of

#: What a caller of an agent with a memory says beside the function's own arguments.
CONVERSATION_ID: Final = "conversation_id"

Memory = ConversationMemory | Literal[True] | None


@dataclass(frozen=True)
class Equipment:
    """The tools and the memory of one agent; none of them where nothing is declared."""

    tools: ToolUse | None = None
    memory: Memory = None

    def split(self, kwargs: Mapping[str, object]) -> tuple[dict[str, Any], str | None]:
        """The function's own keywords, and the conversation's id. Raises InvalidRequest where an agent needs one."""
        if self.memory is None:
            return dict(kwargs), None
        own = dict(kwargs)
        conversation_id = own.pop(CONVERSATION_ID, None)
        if not isinstance(conversation_id, str):
            raise InvalidRequest(f"an agent with a memory is called with {CONVERSATION_ID}=, a text")
        return own, conversation_id

    def added_to(self, request: CompletionRequest, conversation_id: str | None, client: LLMClient) -> CompletionRequest:
        """The request with the tools, as a part of the conversation. Raises ConfigurationError or InvalidRequest."""
        added: dict[str, object] = {}
        if self.tools is not None:
            _check_findable(self.tools, client)
            added["tools"] = self.tools
        if conversation_id is not None:
            name = ConversationName(request.tenant, conversation_id)
            added["conversation"] = ConversationUse(id=name.conversation_id, bounds=self._bounds(request, client))
        return request.model_copy(update=added) if added else request

    def _bounds(self, request: CompletionRequest, client: LLMClient) -> ConversationBounds:
        """Those of the memory, which has to be the one that workers of this client write to."""
        memory = self.memory
        if not isinstance(memory, ConversationMemory):
            return ConversationBounds()
        ours = (request.tenant, client.settings.execution, client.settings.results)
        if (memory.tenant, memory.settings.execution, memory.settings.results) != ours:
            ours_is = "the tenant and the results' Redis of its client: ConversationMemory(client.settings)"
            raise ConfigurationError(f"an agent's memory has {ours_is}")
        return memory.bounds


def equipment_of(
    function: Callable[..., object],
    options: dict[str, Any],
    tools: Sequence[Any],
    memory: bool | ConversationMemory | None,
    max_rounds: int,
    pure_tools: bool,
) -> Equipment:
    """What the decorator says. Tools in OpenAI's form, which the caller runs, become an option as they always were.

    Raises ConfigurationError where a function is no tool, two have one name, or both forms are mixed.
    """
    if memory and CONVERSATION_ID in inspect.signature(function).parameters:
        raise ConfigurationError(
            f"{function.__name__} has a parameter {CONVERSATION_ID}: with a memory, that is its own"
        )
    described = sum(isinstance(one, Mapping) for one in tools)
    if 0 < described < len(tools):
        raise ConfigurationError(f"{function.__name__} mixes functions and descriptions of tools: give one kind")
    if described:
        options["tools"] = list(tools)
    use = _tool_use(tools, max_rounds, pure_tools) if tools and not described else None
    return Equipment(use, (True if memory is True else memory) or None)


def _check_findable(use: ToolUse, client: LLMClient) -> None:
    """No worker imports the program that was started."""
    for spec in use.tools:
        if spec.place.startswith("__main__:") and client.settings.execution == "queue":
            name = spec.function["name"]
            raise ConfigurationError(f"the tool {name} is in the program itself: put it into a module, for workers")


def _tool_use(functions: Sequence[object], max_rounds: int, pure_tools: bool) -> ToolUse:
    specs = [tool_of(function).spec for function in functions]
    names = [str(spec.function["name"]) for spec in specs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"two tools have one name: {', '.join(sorted(twice))}")
    try:
        return ToolUse(tools=tuple(specs), max_rounds=max_rounds, are_pure=pure_tools)
    except ValidationError as error:
        raise ConfigurationError(f"the tools cannot be used so: {problems_of(error)}") from None
