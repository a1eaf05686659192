"""Whom a router may choose: agents, and coroutine functions of the application's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from celery import states
from kombu.utils.uuid import uuid

from kagura_tasks.agents import BaseAgent
from kagura_tasks.errors import ConfigurationError, ResultTimeout, TaskCancelled
from kagura_tasks.results import LLMResult
from kagura_tasks.routing.table import Route
from kagura_tasks.schemas import Completion
from kagura_tasks.sources import Remembered
from kagura_tasks.streaming.events import Event
from kagura_tasks.streaming.replay import events_of

#: Takes the query as its first argument.
Handler = BaseAgent[Any] | Callable[..., Awaitable[object]]


@dataclass(frozen=True)
class Registered:
    """A handler, and what a decision knows of it."""

    handler: Handler
    route: Route

    @classmethod
    def of(cls, handler: Handler, name: str | None = None, **about: object) -> Registered:
        """The handler under this name (default: the function's). Raises ConfigurationError for what is none."""
        if not isinstance(handler, BaseAgent) and not iscoroutinefunction(handler):
            raise ConfigurationError(f"{handler!r} is no handler: register an @agent, or a coroutine function")
        chosen = name or str(getattr(handler, "__name__", ""))
        return cls(handler, Route.build(name=chosen, **about))

    def planned(self) -> Route:
        """What a worker has to know. Raises ConfigurationError where it cannot run the handler."""
        name = self.route.name
        if not isinstance(self.handler, BaseAgent):
            raise ConfigurationError(f"no worker can run {name}: only an @agent travels; use the router's own route")
        if self.handler.has_memory:
            raise ConfigurationError(f"{name} has a memory of its own: let a MemoryAwareRouter keep the conversation")
        try:
            return self.route.model_copy(update={"plan": self.handler.plan()})
        except TypeError as error:
            raise ConfigurationError(f"a worker cannot run {name} with nothing but a query: {error}") from None

    async def answer(self, query: str, arguments: dict[str, Any]) -> LLMResult:
        """Let it answer, once. A coroutine function runs on the running event loop."""
        if isinstance(self.handler, BaseAgent):
            request = self.handler.request(query, **arguments)
            return self.handler.checked(request, await self.handler.client.asubmit(request))
        call = self._returned(self.handler(query, **arguments))
        task_id, running = uuid(), asyncio.run_coroutine_threadsafe(call, asyncio.get_running_loop())
        return LLMResult(task_id, HandlerAnswer(task_id, running))

    async def finished(self, query: str, completion: Completion) -> Completion:
        """The completion, fit for what the agent declares. Raises OutputInvalid."""
        if not isinstance(self.handler, BaseAgent) or completion.parsed is not None:
            return completion
        request = self.handler.request(query)
        return await self.handler.checked(request, LLMResult("", Remembered(completion)))

    async def _returned(self, awaitable: Awaitable[object]) -> Completion:
        value = await awaitable
        if isinstance(value, Completion):
            return value
        text = value if isinstance(value, str) else str(value)
        return Completion(text=text, model="", finish_reason="stop", attempts=0, parsed=value)


class HandlerAnswer:
    """What a coroutine function returns, as an answer. It runs whether or not anybody waits for it."""

    def __init__(self, task_id: str, running: Future[Completion]) -> None:
        """Take what its run is called, and the run."""
        self._task_id = task_id
        self._running = running

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource. Raises what the function raises, too."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asyncio.wrap_future(self._running))
        except TimeoutError:
            if self._running.done():
                raise
            raise ResultTimeout(self._task_id, timeout_s or 0.0) from None
        except (asyncio.CancelledError, CancelledError):
            if self._running.cancelled():
                raise TaskCancelled(self._task_id) from None
            raise

    async def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource: all of it at its end."""
        completion = await self.answer(None)
        if events := [event for event in events_of(completion) if event.seq > after]:
            yield events

    def status(self) -> str:
        """See AnswerSource."""
        if not self._running.done():
            return states.PENDING
        if self._running.cancelled():
            return states.REVOKED
        return states.FAILURE if self._running.exception() else states.SUCCESS

    def cancel(self) -> None:
        """See AnswerSource."""
        _ = self._running.cancel()
