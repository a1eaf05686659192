"""The part of a client that routes: one task that decides and answers; and vectors for those who compare them."""

from __future__ import annotations

import asyncio

from kombu.utils.uuid import uuid

from kagura_tasks.executors import Executor
from kagura_tasks.routed import RoutedAnswer, RoutedResult, Routes
from kagura_tasks.schemas import Completion, CompletionRequest, Priority


class RoutingCalls:
    """What a client does with routers."""

    _executor: Executor

    def route(
        self,
        query: str,
        router: Routes,
        *,
        conversation_id: str | None = None,
        tenant: str | None = None,
        priority: Priority | str | int = Priority.NORMAL,
    ) -> RoutedResult:
        """Let a worker decide which of the router's agents a query is for, and answer as it does, in one task.

        Args:
            query: What was asked.
            router: An AgentRouter whose agents are all `@agent`s. With a MemoryAwareRouter, the worker reads the
                conversation, and appends what was asked and answered.
            conversation_id: Where it was asked.
            tenant: Whose data it is; default: the client's.
            priority: See `request`.

        Raises:
            ConfigurationError: An agent cannot travel, or there is none. Nothing was sent.
            InvalidRequest: The query cannot be right, or is too long (QueryTooLong). Nothing was sent.
            RedisUnreachable: The message could not be sent.

        Getting the answer raises NoAgentFound, too: no agent fits, and there is no fallback.
        """
        order = router.order(query, conversation_id=conversation_id, tenant=tenant, priority=priority)
        result = self._executor.route(order, uuid())
        return RoutedResult(result.id, RoutedAnswer(result.source, router.finish))

    async def aroute(
        self,
        query: str,
        router: Routes,
        *,
        conversation_id: str | None = None,
        tenant: str | None = None,
        priority: Priority | str | int = Priority.NORMAL,
    ) -> RoutedResult:
        """The same, without blocking the event loop."""
        return await asyncio.to_thread(
            self.route, query, router, conversation_id=conversation_id, tenant=tenant, priority=priority
        )

    async def aembed(self, request: CompletionRequest) -> Completion:
        """The vectors of the request's messages, by its model, as routing.vectors writes them."""
        result = await asyncio.to_thread(self._executor.embed, request, uuid())
        return await result
