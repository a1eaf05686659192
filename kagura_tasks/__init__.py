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
    from kagura_tasks.file_results import FileOutcome, FilesResult
    from kagura_tasks.files.chunking import DocumentChunk, document_chunks
    from kagura_tasks.files.documents import Document, FileRef, FileRow, LoadedDirectory, Section
    from kagura_tasks.files.limits import FileLimits
    from kagura_tasks.files.loading import load_directory
    from kagura_tasks.files.parse_cache import LocalParseCache, ParseCache, RedisParseCache
    from kagura_tasks.files.parts import document_content
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
    from kagura_tasks.tools import ToolContext, tool, tool_context

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
    "tool_context",
    "ToolContext",
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
    # files
    "FilesResult",
    "FileOutcome",
    "load_directory",
    "LoadedDirectory",
    "Document",
    "Section",
    "FileRow",
    "FileRef",
    "FileLimits",
    "document_chunks",
    "DocumentChunk",
    "document_content",
    "ParseCache",
    "LocalParseCache",
    "RedisParseCache",
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
    "ContextAnalyzer": "routing.context",
    "ConversationMemory": "conversations",
    "Decision": "routing.decision",
    "Document": "files.documents",
    "DocumentChunk": "files.chunking",
    "FileLimits": "files.limits",
    "FileOutcome": "file_results",
    "FileRef": "files.documents",
    "FileRow": "files.documents",
    "FilesResult": "file_results",
    "KaguraTasksError": "errors",
    "LLMCache": "cache.llm_cache",
    "LLMClient": "client",
    "LLMConfig": "functions",
    "LLMContextAnalyzer": "routers",
    "LLMGroupResult": "groups",
    "LLMResult": "results",
    "LLMStream": "streams",
    "LoadedDirectory": "files.documents",
    "LocalParseCache": "files.parse_cache",
    "MapItem": "groups",
    "MapOutcome": "groups",
    "MapProgress": "groups",
    "MapReduceResult": "groups",
    "MemoryAwareRouter": "routers",
    "Message": "schemas",
    "ParseCache": "files.parse_cache",
    "Priority": "schemas",
    "RedisCache": "cache.llm_cache",
    "RedisParseCache": "files.parse_cache",
    "RoutedResult": "routed",
    "Section": "files.documents",
    "Settings": "settings",
    "ToolContext": "tools",
    "Turn": "conversations",
    "Usage": "schemas",
    "agent": "agents",
    "call_llm": "functions",
    "call_llm_stream": "functions",
    "document_chunks": "files.chunking",
    "document_content": "files.parts",
    "get_llm_cache": "functions",
    "load_directory": "files.loading",
    "parallel_gather": "parallel",
    "parallel_llm_calls": "parallel",
    "parallel_map": "parallel",
    "set_llm_cache": "functions",
    "tool": "tools",
    "tool_context": "tools",
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
