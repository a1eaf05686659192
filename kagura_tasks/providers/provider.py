"""What the worker asks of a model's side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kagura_tasks.schemas import Completion, CompletionRequest, Usage

#: Takes each piece of the answer's text as it comes, never an empty one. Raises to end the call.
HandOver = Callable[[str], None]


class Provider(Protocol):
    """Makes one call of a model: no cache, no retry, no foreign error."""

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """The model's answer. Raises TransientError or PermanentError; closes the connection when cancelled."""
        ...

    async def stream(self, request: CompletionRequest, timeout_s: float, hand_over: HandOver) -> Completion:
        """The model's answer, whose text is handed over piece by piece while it is written.

        The completion's text is exactly what was handed over, joined. `timeout_s` bounds the time to the first piece of
        anything, and each silence after it; not the whole answer. Closes the connection when cancelled, and when
        `hand_over` raises, whose error comes out unchanged.

        Raises:
            TransientError: As in `complete`; also where the stream was cut (it ended without a finish reason), stalled
                or failed in the middle. What was handed over is then worthless.
            PermanentError: As in `complete`.
        """
        ...

    async def count(self, request: CompletionRequest, text: str) -> Usage:
        """What a call used that was ended after this much text: counted here, for the provider will not say.

        The tokens of prompt and text, and their cost where the price is known.
        """
        ...

    async def embed(self, model: str, texts: Sequence[str], timeout_s: float) -> list[list[float]]:
        """The texts' vectors, in their order, by an embedding model. Raises as `complete` does."""
        ...

    def context_window(self, model: str) -> int | None:
        """How many tokens the model reads; None where that is not known."""
        ...

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for the model, or nearly so: not every model's tokenizer is at hand."""
        ...
