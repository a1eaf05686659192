"""What providers know about tokens: LiteLLM's map of windows, and its tokenizers."""

from __future__ import annotations

import pytest

from kagura_tasks.loops import LoopThread
from kagura_tasks.providers.provider import Provider
from tests.support.lanes import MARKS

pytestmark = MARKS


@pytest.fixture(params=["litellm", "auto"])
def provider(request: pytest.FixtureRequest, providers: dict[str, Provider]) -> Provider:
    return providers[request.param]


def test_a_window_is_that_of_the_models_input(provider: Provider):
    """With the provider's name or without; None where LiteLLM does not know the model, or not its window."""
    assert provider.context_window("openai/gpt-4o-mini") == 128_000
    assert provider.context_window("gpt-4o-mini") == 128_000
    assert provider.context_window("openai/gpt-nobody-knows") is None
    assert provider.context_window("nobody/knows") is None
    assert provider.context_window("openai/dall-e-3") is None


def test_tokens_are_counted_for_each_text(provider: Provider, loop: LoopThread):
    """Also for a model that nobody knows, and a text that no tokenizer takes: nearly so, and never none."""
    for model in ("openai/gpt-4o-mini", "nobody/knows"):
        none, two, many, broken = loop.run(
            provider.count_tokens(model, ["", "hello world", "hello world " * 500, "half a pair \ud83d"])
        )
        assert (none, two) == (0, 2)
        assert 1000 <= many <= 1100
        assert 3 <= broken <= 20
