"""The RFC's names: plain async functions over one default client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.client import LLMClient
from kagura_tasks.streams import TextStream


@dataclass(frozen=True)
class LLMConfig:
    """How to call a model.

    Attributes:
        model: LiteLLM's name.
        temperature: From 0 (always the likeliest word) on.
        max_tokens: Longest answer.
        enable_cache: Look for a remembered answer, and remember the answer.
        cache_ttl: Seconds for which the answer is remembered.
        cache_backend: Where a cache made by `open_cache` keeps its entries.
    """

    model: str = "gpt-4o-mini"
    temperature: float = 0.7
    max_tokens: int = 2000
    enable_cache: bool = True
    cache_ttl: int = 3600
    cache_backend: Literal["memory", "redis", "disk"] = "memory"

    def options(self) -> dict[str, Any]:
        """As options of `LLMClient.submit`."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "use_cache": self.enable_cache,
            "cache_ttl": self.cache_ttl,
        }

    def open_cache(self) -> LLMCache:
        """A cache of this kind, for `set_llm_cache`."""
        return LLMCache(self.cache_backend, default_ttl=self.cache_ttl)


_default_client: LLMClient | None = None


def default_client() -> LLMClient:
    """The client behind the functions and the agents that name none: made from the environment when first used."""
    global _default_client
    if _default_client is None:
        _default_client = LLMClient()
    return _default_client


async def call_llm(
    prompt: str,
    model: str = "gpt-4o-mini",
    use_cache: bool = True,
    cache_ttl: int | None = None,
    *,
    config: LLMConfig | None = None,
    **kwargs: Any,
) -> str:
    """The model's answer to a prompt.

    Args:
        prompt: The text.
        model: LiteLLM's name.
        use_cache: Look for a remembered answer, and remember the answer.
        cache_ttl: Seconds for which it is remembered; default: the workers' setting.
        config: All of this in one value, instead of the three above; `kwargs` win over it.
        kwargs: What else `LLMClient.submit` takes: temperature, tags, tenant, priority, ...

    Raises:
        KaguraTasksError: See LLMClient.submit and LLMResult.get.
    """
    options = config.options() if config else {"model": model, "use_cache": use_cache, "cache_ttl": cache_ttl}
    return (await default_client().acomplete(prompt, **{**options, **kwargs})).text


async def call_llm_stream(
    prompt: str, model: str = "gpt-4o-mini", *, config: LLMConfig | None = None, **kwargs: Any
) -> AsyncGenerator[str]:
    """The model's answer, piece by piece, while it is written.

    Args:
        prompt: The text.
        model: LiteLLM's name.
        config: How to call the model, in one value; `kwargs` win over it.
        kwargs: What else `LLMClient.stream` takes: use_cache, cache_ttl, temperature, tags, ...

    Raises:
        StreamRestarted: The model began anew after text was handed out: that text is void.
        KaguraTasksError: See LLMClient.submit and LLMStream.completion.
    """
    options = config.options() if config else {"model": model}
    async for text in TextStream(default_client().stream(prompt, **{**options, **kwargs})):
        yield text


def get_llm_cache() -> LLMCache:
    """The default client's cache."""
    return default_client().cache


def set_llm_cache(cache: LLMCache) -> None:
    """Give the default client a cache of your own, which is asked first and told every answer."""
    global _default_client
    settings = _default_client.settings if _default_client else None
    _default_client = LLMClient(settings, cache=cache)
