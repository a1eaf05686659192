"""Both ways to a model, to be held to one contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest

from kagura_tasks import errors
from kagura_tasks.loops import LoopThread
from kagura_tasks.providers.provider import HandOver, Provider
from kagura_tasks.schemas import Completion, CompletionRequest

#: LiteLLM imports parts of itself when they are first used, and the filter that it sets for them ends with a test.
#: And its stream looks at every attribute of a chunk, deprecated ones as well.
MARKS: Final = [
    pytest.mark.litellm,
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]

KEY: Final = "sk-canary-key"
MODEL: Final = "openai/gpt-4o-mini"

#: An answer that calls a tool.
CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "the sky"}'}}


@dataclass(frozen=True)
class Lane:
    """A way to the model, and the loop that it runs on."""

    name: str
    provider: Provider
    loop: LoopThread
    api_base: str

    def ask(
        self, prompt: str = "canary prompt", timeout_s: float = 10, model: str = MODEL, **params: Any
    ) -> Completion:
        """One call of the scripted provider."""
        return self.send(request(prompt, model=model, **{"api_base": self.api_base, **params}), timeout_s)

    def send(self, what: CompletionRequest, timeout_s: float = 10) -> Completion:
        """One call."""
        return self.loop.run(self.provider.complete(what, timeout_s))

    def stream(
        self, timeout_s: float = 10, model: str = MODEL, hand_over: HandOver | None = None, **params: Any
    ) -> Completion:
        """One streamed call of the scripted provider. Its text is what was handed over, which is checked."""
        return self.loop.run(self.streaming(timeout_s, model, hand_over, **params))

    async def streaming(
        self, timeout_s: float = 10, model: str = MODEL, hand_over: HandOver | None = None, **params: Any
    ) -> Completion:
        """The same, on its loop."""
        pieces: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)
            if hand_over:
                hand_over(piece)

        asked = request(model=model, **{"api_base": self.api_base, **params})
        completion = await self.provider.stream(asked, timeout_s, take)
        assert "" not in pieces
        assert completion.text == "".join(pieces)
        return completion


def request(prompt: str = "canary prompt", model: str = MODEL, **params: Any) -> CompletionRequest:
    return CompletionRequest.model_validate(
        {"model": model, "messages": [{"role": "user", "content": prompt}], "params": params}
    )


class Knowledge:
    """LiteLLM for the direct lane: it may be asked, but makes no call."""

    def __init__(self, litellm: Any) -> None:
        self.route, self.read, self.cost_usd = litellm.route, litellm.read, litellm.cost_usd
        self.count = litellm.count

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        raise AssertionError(f"the direct lane did not take this request: {request}")

    async def stream(self, request: CompletionRequest, timeout_s: float, hand_over: HandOver) -> Completion:
        raise AssertionError(f"the direct lane did not take this request: {request}")


def failure(lane: Lane, *, streamed: bool = False, **params: Any) -> tuple[object, ...]:
    """The error that a caller sees: all but its text, which quotes nothing."""
    with pytest.raises(errors.ProviderError) as caught:
        _ = lane.stream(**params) if streamed else lane.ask(**params)
    assert "canary" not in str(caught.value)
    return caught.type, *caught.value.args[1:]
