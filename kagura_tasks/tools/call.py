"""What a tool may know of the call that it answers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class ToolContext:
    """The call that a tool answers. Both texts are empty where a function is called without a model.

    Attributes:
        call_id: The call's name. It is the same when the call is made again because its worker died: what must not
            happen twice can be recorded under it.
        tenant: Whose request it is, and so whose data may be read for it.
    """

    call_id: str = ""
    tenant: str = ""


_NOBODY: Final = ToolContext()
_CONTEXT: Final[ContextVar[ToolContext]] = ContextVar("kagura_tool_context", default=_NOBODY)


def tool_context() -> ToolContext:
    """The call that the running tool answers."""
    return _CONTEXT.get()


@contextmanager
def answering(context: ToolContext) -> Generator[None]:
    """In this block, and in what it starts, `tool_context` is this one."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)
