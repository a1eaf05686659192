"""What the worker asks of a model's side."""

from __future__ import annotations

from typing import Protocol

from kagura_tasks.schemas import Completion, CompletionRequest


class Provider(Protocol):
    """Makes one call of a model: no cache, no retry, no foreign error."""

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """The model's answer. Raises TransientError or PermanentError; closes the connection when cancelled."""
        ...
