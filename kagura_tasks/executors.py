"""Who makes the calls that the cache cannot answer: workers, or this process."""

from __future__ import annotations

from typing import Final, Protocol, cast

from celery import Celery
from celery.utils.imports import symbol_by_name

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.mapping import Maps
from kagura_tasks.results import LLMResult
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings

#: Who makes the calls, by the setting `execution`. Named, not imported: what makes them in this process stands
#: above both wings, and brings LiteLLM along.
_EXECUTORS: Final = {
    "queue": "kagura_tasks.queued:QueueExecutor",
    "inline": "kagura_tasks.inline:InlineExecutor",
}


class Executor(Protocol):
    """Whoever makes the calls that the cache cannot answer, and keeps their answers."""

    cache: LLMCache
    maps: Maps

    def __init__(self, settings: Settings, app: Celery) -> None:
        """Take the settings, and the Celery app to send through."""
        ...

    def submit(self, request: CompletionRequest, task_id: str, *, looked_up: bool, stream: bool = False) -> LLMResult:
        """Start the call. `looked_up`: its own cache was asked, and the miss counted."""
        ...

    async def asubmit(
        self, request: CompletionRequest, task_id: str, *, looked_up: bool, stream: bool = False
    ) -> LLMResult:
        """The same, without blocking the event loop."""
        ...

    def route(self, order: RouteOrder, task_id: str) -> LLMResult:
        """Start one task that decides and answers."""
        ...

    def embed(self, request: CompletionRequest, task_id: str) -> LLMResult:
        """Start a call of an embedding model. See CompletionRunner.embed."""
        ...

    def keep_stream(self, request: CompletionRequest, task_id: str, completion: Completion) -> None:
        """Let a remembered answer be resumed like any other, by whoever has its id."""
        ...

    def result(self, task_id: str, tenant: str | None = None) -> LLMResult:
        """The handle of a call that was started before."""
        ...


def open_executor(settings: Settings, app: Celery) -> Executor:
    """The executor that the settings name. Connects to nothing yet."""
    kind = cast("type[Executor]", symbol_by_name(_EXECUTORS[settings.execution]))
    return kind(settings, app)
