"""Who speaks OpenAI's format, and what LiteLLM changes on the way to each. Who is not listed here is LiteLLM's to call.

A row is what `tests/contracts/test_provider_compatible.py` proves: of LiteLLM's code for a provider, the class that
writes the requests is named, so that another one in a later version is not taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kagura_tasks.providers.plain import PARAMS

#: Settings of LiteLLM that change requests, watch them or count them: with one of them, LiteLLM makes every call.
OWN_WAYS: Final = (
    *("callbacks", "success_callback", "failure_callback", "input_callback", "service_callback"),
    *("_async_success_callback", "_async_failure_callback", "_async_input_callback", "pre_call_rules"),
    *("post_call_rules", "drop_params", "modify_params", "model_alias_map", "model_fallbacks", "api_base", "api_key"),
    *("openai_key", "organization", "headers", "proxy_auth", "aclient_session", "client_session", "network_mock"),
    *("route_all_chat_openai_to_responses", "openai_system_messages_first", "enable_json_schema_validation"),
    *("enable_preview_features", "ssl_certificate", "cache", "custom_provider_map", "add_function_to_prompt"),
    *("secret_manager_client", "cost_margin_config", "cost_discount_config", "max_budget", "force_ipv4"),
)


@dataclass(frozen=True)
class Dialect:
    """How a provider is called, and what LiteLLM has to do for it.

    Attributes:
        writers: LiteLLM's classes that write its requests as they are, but for what is said here.
        by_client: LiteLLM calls it with OpenAI's own client, whose headers go along.
        translated: Parameters that LiteLLM renames, replaces or judges by the model.
        rewritten: Words in a tool's schema that LiteLLM does something about.
        only_text: LiteLLM makes one text of a message's parts.
        verbatim: LiteLLM takes the text of a plain answer as it is, thoughts and all.
        tools_of_its_own: A part of the names of models that run tools which are paid for by use.
        variables: Where its address and its key come from.
    """

    writers: frozenset[str]
    by_client: bool = False
    translated: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset({"cache_control"})
    only_text: bool = False
    verbatim: bool = False
    tools_of_its_own: str | None = None
    variables: tuple[str, ...] = ()

    @property
    def params(self) -> frozenset[str]:
        """What goes on the wire as it is, if the model takes it."""
        return frozenset(PARAMS) - self.translated

    def runs_tools(self, model: str) -> bool:
        """The model costs more than its tokens, and only LiteLLM counts what."""
        return bool(self.tools_of_its_own) and str(self.tools_of_its_own) in model


_RENAMED: Final = frozenset({"max_completion_tokens"})

#: LiteLLM looks them up for each model, and refuses the call where its table says no.
_JUDGED: Final = frozenset({"tools", "tool_choice", "response_format"})

DIALECTS: Final[Mapping[str, Dialect]] = {
    "openai": Dialect(
        frozenset({"OpenAIGPTConfig", "OpenAIUnknownModelConfig"}),
        by_client=True,
        rewritten=frozenset({"cache_control", "pattern", "patternProperties"}),
    ),
    "hosted_vllm": Dialect(
        frozenset({"HostedVLLMChatConfig"}),
        rewritten=frozenset({"cache_control", "additionalProperties", "strict"}),
        variables=("HOSTED_VLLM_API_BASE", "HOSTED_VLLM_API_KEY"),
    ),
    "groq": Dialect(
        frozenset({"GroqChatConfig"}),
        # A response format becomes a tool, or ends the streaming.
        translated=_RENAMED | {"response_format"},
        verbatim=True,
        tools_of_its_own="compound",
        variables=("GROQ_API_BASE", "GROQ_API_KEY"),
    ),
    "deepseek": Dialect(
        frozenset({"DeepSeekChatConfig"}),
        only_text=True,
        variables=("DEEPSEEK_API_BASE", "DEEPSEEK_API_KEY"),
    ),
    "together_ai": Dialect(
        frozenset({"TogetherAIChatConfig"}),
        translated=_JUDGED,
        variables=(
            *("TOGETHER_AI_API_BASE", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY"),
            *("TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"),
        ),
    ),
    "cerebras": Dialect(
        frozenset({"CerebrasConfig"}),
        by_client=True,
        translated=_RENAMED,
        variables=("CEREBRAS_API_BASE", "CEREBRAS_API_KEY"),
    ),
    "nvidia_nim": Dialect(
        frozenset({"NvidiaNimConfig"}),
        by_client=True,
        translated=_RENAMED,
        variables=("NVIDIA_NIM_API_BASE", "NVIDIA_NIM_API_KEY"),
    ),
    "lm_studio": Dialect(
        frozenset({"LMStudioChatConfig"}),
        by_client=True,
        variables=("LM_STUDIO_API_BASE", "LM_STUDIO_API_KEY"),
    ),
}

#: All of them.
VARIABLES: Final = tuple(name for dialect in DIALECTS.values() for name in dialect.variables)


def is_verbatim(provider: str) -> bool:
    """LiteLLM takes this provider's plain answers as they are; any provider may be asked for."""
    return provider in DIALECTS and DIALECTS[provider].verbatim


def speaks(model: str) -> bool:
    """The name is of a provider of the list, or has none: then it may be OpenAI's."""
    provider, slash, _ = model.partition("/")
    return not slash or provider in DIALECTS
