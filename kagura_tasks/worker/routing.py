"""One routed query, from conversation to answer: decided, and answered by the agent that was chosen."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kagura_tasks.conversations import ConversationMemory, Turn
from kagura_tasks.routing.deciding import Outside, analysis_by, decide, decide_in_conversation, fitting
from kagura_tasks.routing.decision import Decision
from kagura_tasks.routing.order import RouteOrder, exchange
from kagura_tasks.routing.vectors import Vectors
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings
from kagura_tasks.worker.job import Delivery, Job


class Asks(Protocol):
    """Who answers requests. See CompletionRunner."""

    async def ask(self, job: Job) -> Completion:
        """The answer: remembered, shared or called for."""
        ...

    async def embed(self, job: Job) -> Completion:
        """The vectors of the request's messages."""
        ...


class QueryRouter:
    """Answers orders. The decision is made again where the task is tried again: the answer tells the last one."""

    def __init__(self, settings: Settings, asks: Asks) -> None:
        """Take where conversations are, and who answers requests."""
        self._settings = settings
        self._asks = asks

    async def run(self, order: RouteOrder, delivery: Delivery) -> Completion:
        """The chosen agent's answer, with the decision. One agent runs, and runs once.

        Raises:
            InvalidRequest: The query is empty, no text, or too long.
            NoAgentFound: No agent fits, and there is no fallback.
            RetryLater: Another try may help, but not soon.
            KaguraTasksError: As the agent's own call.
        """
        memory = self._memory_of(order)
        turns = await self._turns(order, memory)
        decision = fitting(order.table, await self._decided(order, turns, delivery))
        completion = await self._asks.ask(delivery.job(await self._request(order, decision)))
        if memory is not None and order.conversation is not None:
            said = exchange(order.query, completion.text, delivery.task_id)
            _ = await memory.aappend_all(order.conversation.id, said)
        return completion.model_copy(update={"decision": decision.model_dump(mode="json")})

    async def _decided(self, order: RouteOrder, turns: list[Turn], delivery: Delivery) -> Decision:
        async def ask(request: CompletionRequest, name: str) -> Completion:
            urgent = request.model_copy(update={"priority": order.priority})
            return await self._asks.ask(delivery.part(urgent, name))

        async def embed(request: CompletionRequest) -> Completion:
            return await self._asks.embed(delivery.part(request, "embed"))

        outside = Outside(ask, Vectors(self._settings, order.tenant, embed), order.tenant)
        if order.table.context is None:
            return await decide(order.table, order.query, outside)
        analyze = analysis_by(order.table, outside)
        return await decide_in_conversation(order.table, order.query, turns, outside, analyze)

    async def _request(self, order: RouteOrder, decision: Decision) -> CompletionRequest:
        plan = order.plan(decision.agent or "")
        # A template may take its time: not on the loop.
        prompt = await asyncio.to_thread(plan.prompt, [decision.resolved_query])
        return plan.asks(prompt).model_copy(update={"tenant": order.tenant, "priority": order.priority})

    async def _turns(self, order: RouteOrder, memory: ConversationMemory | None) -> list[Turn]:
        if memory is None or order.conversation is None or order.table.context is None:
            return []
        return await memory.aturns(order.conversation.id, order.table.context.window)

    def _memory_of(self, order: RouteOrder) -> ConversationMemory | None:
        if order.conversation is None:
            return None
        bounds = order.conversation.bounds
        return ConversationMemory(
            self._settings,
            tenant=order.tenant,
            max_turns=bounds.max_turns,
            max_tokens=bounds.max_tokens,
            ttl_s=bounds.ttl_s,
            summarise=bounds.summary_model,
        )
