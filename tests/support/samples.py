"""Requests and answers that say only what a test is about."""

from __future__ import annotations

from typing import Any

from kagura_tasks.schemas import Completion, CompletionRequest, Message

MODEL = "openai/gpt-4o-mini"


def completion(text: str = "hi", finish_reason: str = "stop", **fields: Any) -> Completion:
    """An answer."""
    return Completion(text=text, model=MODEL, finish_reason=finish_reason, **fields)


def request(prompt: str = "hello", **fields: Any) -> CompletionRequest:
    """A request."""
    return CompletionRequest(model=MODEL, messages=(Message(role="user", content=prompt),), **fields)
