"""Which names of models LiteLLM knows: a limit that is meant for none of them limits nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final, cast

from kagura_tasks.errors import ConfigurationError
from kagura_tasks.providers import litellm as provider

#: Providers whose models whoever runs them names: any name may be one.
_OWN_NAMES: Final = frozenset(
    {"azure", "azure_ai", "custom_openai", "databricks", "hosted_vllm", "huggingface", "litellm_proxy", "llamafile"}
    | {"lm_studio", "ollama", "ollama_chat", "openai_like", "openrouter", "sagemaker", "sagemaker_chat", "triton"}
    | {"vllm", "xinference"}
)


def refuse_unknown(setting: str, patterns: Iterable[str], used: Iterable[str]) -> None:
    """Raise ConfigurationError, which names the setting, where a pattern fits no model that is known, or `used`."""
    names = [*used, *_names()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names) and not _is_open(pattern):
            raise ConfigurationError(
                f'{setting}: "{pattern}" fits no model that LiteLLM knows. A model is named with its provider in front,'
                ' such as openai/gpt-4o-mini, and "openai/*" are all of a provider'
            )


@cache
def _names() -> tuple[str, ...]:
    """All names in the price map, as one may write them."""
    known = cast("dict[str, dict[str, object]]", cast(Any, provider.litellm).model_cost)
    full = (f"{entry.get('litellm_provider')}/{name}" for name, entry in known.items() if "/" not in name)
    return (*known, *full)


def _is_open(pattern: str) -> bool:
    """The provider's models have names that LiteLLM cannot know."""
    name, slash, _ = pattern.partition("/")
    if not slash or name not in cast("list[str]", cast(Any, provider.litellm).provider_list):
        return False
    has_own_server = any(os.environ.get(f"{name.upper()}_{word}") for word in ("API_BASE", "BASE_URL"))
    return name in _OWN_NAMES or has_own_server or not any(one.startswith(f"{name}/") for one in _names())
