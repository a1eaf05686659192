"""What crosses the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_core import PydanticSerializationError

from kagura_tasks.schemas import CompletionRequest, Message


class Interrupting:
    """A default that is compared in the moment of a Ctrl-C."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __eq__(self, other: object) -> bool:
        raise self._error

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def request_with(timeout_s: Any) -> CompletionRequest:
    """A request with anything for its timeout."""
    messages = (Message(role="user", content="Hello."),)
    return CompletionRequest.model_construct(model="openai/gpt-4o-mini", messages=messages, timeout_s=timeout_s)


def test_a_request_is_written_without_its_defaults():
    """What is not said is not sent."""
    text = request_with(2.5).to_json_text()
    assert text == '{"model":"openai/gpt-4o-mini","messages":[{"role":"user","content":"Hello."}],"timeout_s":2.5}'


def test_ctrl_c_while_a_request_is_written_is_ctrl_c():
    """pydantic would make an error of the request out of it; a real one stays what it is."""
    with pytest.raises(KeyboardInterrupt):
        request_with(Interrupting(KeyboardInterrupt())).to_json_text()
    with pytest.raises(PydanticSerializationError):
        request_with(Interrupting(ValueError("no"))).to_json_text()
