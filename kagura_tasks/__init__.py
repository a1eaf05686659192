"""LLM work on Celery: an application enqueues, workers call models, Redis remembers the answers.

What is listed here is the public face. It is loaded when it is first used, so that importing the package is quick,
and nothing of a worker's (LiteLLM takes seconds) is ever loaded in an application.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kagura_tasks import errors, signatures
    from kagura_tasks.agents import Agent, agent
    from kagura_tasks.cache.backend import CacheEntry
    from kagura_tasks.cache.llm_cache import LLMCache, RedisCache
    from kagura_tasks.client import LLMClient
    from kagura_tasks.conversations import ConversationMemory, Turn
    from kagura_tasks.errors import KaguraTasksError
    from kagura_tasks.functions import LLMConfig, call_llm, call_llm_stream, get_llm_cache, set_llm_cache
    from kagura_tasks.groups import LLMGroupResult, MapItem, MapOutcome, MapProgress, MapReduceResult
    from kagura_tasks.parallel import parallel_gather, parallel_llm_calls, parallel_map
    from kagura_tasks.results import LLMResult
    from kagura_tasks.routed import RoutedResult
    from kagura_tasks.routers import AgentRouter, ContextAnalyzer, LLMContextAnalyzer, MemoryAwareRouter
    from kagura_tasks.routing.decision import Decision
    from kagura_tasks.schemas import Completion, CompletionRequest, Message, Priority, Usage
    from kagura_tasks.settings import Settings
    from kagura_tasks.streaming.events import Chunk
    from kagura_tasks.streams import LLMStream
    from kagura_tasks.tools import tool

__version__ = "0.1.0"

__all__ = [
    # calls
    "LLMClient",
    "LLMResult",
    "LLMStream",
    "LLMGroupResult",
    "MapItem",
    "MapOutcome",
    "MapProgress",
    "MapReduceResult",
    "Chunk",
    "Completion",
    "Usage",
    "CompletionRequest",
    "Message",
    "Priority",
    # agents
    "Agent",
    "agent",
    "tool",
    "ConversationMemory",
    "Turn",
    # routing
    "AgentRouter",
    "MemoryAwareRouter",
    "ContextAnalyzer",
    "LLMContextAnalyzer",
    "Decision",
    "RoutedResult",
    # plain functions
    "LLMConfig",
    "call_llm",
    "call_llm_stream",
    "get_llm_cache",
    "set_llm_cache",
    "parallel_llm_calls",
    "parallel_gather",
    "parallel_map",
    # canvas
    "signatures",
    # cache
    "CacheEntry",
    "LLMCache",
    "RedisCache",
    # the rest
    "KaguraTasksError",
    "Settings",
    "errors",
]

_HOMES = {
    "Agent": "agents",
    "AgentRouter": "routers",
    "CacheEntry": "cache.backend",
    "Chunk": "streaming.events",
    "Completion": "schemas",
    "CompletionRequest": "schemas",
    "KaguraTasksError": "errors",
    "ContextAnalyzer": "routing.context",
    "ConversationMemory": "conversations",
    "Decision": "routing.decision",
    "LLMCache": "cache.llm_cache",
    "LLMClient": "client",
    "LLMContextAnalyzer": "routers",
    "LLMConfig": "functions",
    "LLMGroupResult": "groups",
    "LLMResult": "results",
    "LLMStream": "streams",
    "MapItem": "groups",
    "MapOutcome": "groups",
    "MapProgress": "groups",
    "MapReduceResult": "groups",
    "MemoryAwareRouter": "routers",
    "Message": "schemas",
    "Priority": "schemas",
    "RedisCache": "cache.llm_cache",
    "RoutedResult": "routed",
    "Settings": "settings",
    "Turn": "conversations",
    "Usage": "schemas",
    "agent": "agents",
    "call_llm": "functions",
    "call_llm_stream": "functions",
    "get_llm_cache": "functions",
    "parallel_gather": "parallel",
    "parallel_llm_calls": "parallel",
    "parallel_map": "parallel",
    "set_llm_cache": "functions",
    "tool": "tools",
}


#: Modules that are public as such.
_MODULES = ("errors", "signatures")


def __getattr__(name: str) -> object:
    """Load a public name from the module where it lives (PEP 562)."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
