"""What a tool may know of the call that it answers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_CALL_ID: Final[ContextVar[str]] = ContextVar("kagura_tool_call", default="")


def call_id() -> str:
    """The name of the call that the running tool answers; "" where none does.

    The call has the same name when it is made again because its worker died: what must not happen twice can be
    recorded under it.
    """
    return _CALL_ID.get()


@contextmanager
def answering(name: str) -> Generator[None]:
    """In this block, and in what it starts, `call_id` is this name."""
    token = _CALL_ID.set(name)
    try:
        yield
    finally:
        _CALL_ID.reset(token)
