"""One routed query, from conversation to answer: decided, and answered by the agent that was chosen."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.turns import Turn
from kagura_tasks.routing.deciding import Outside, analysis_by, decide, decide_in_conversation, fitting
from kagura_tasks.routing.decision import Decision
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.routing.vectors import Vectors
from kagura_tasks.schemas import Completion, CompletionRequest, ConversationUse, Message
from kagura_tasks.settings import Settings
from kagura_tasks.worker.completion import CompletionRunner
from kagura_tasks.worker.exchange_records import patiently
from kagura_tasks.worker.job import Delivery, Job

#: A query is no request of a model's.
_NOBODY: Final = "none"


class QueryRouter:
    """Answers orders."""

    def __init__(self, settings: Settings, runner: CompletionRunner) -> None:
        """Take where vectors are kept, and who answers requests."""
        self._settings = settings
        self._runner = runner

    async def run(self, order: RouteOrder, delivery: Delivery) -> Completion:
        """The chosen agent's answer, with the decision. One agent runs, and runs once.

        Raises:
            InvalidRequest: The query is empty, no text, or too long (QueryTooLong).
            NoAgentFound: No agent fits, and there is no fallback.
            RetryLater: Another try may help, but not soon.
            HandedBack: Redis stays away.
            KaguraTasksError: As the agent's own call.
        """
        order.table.check_query(order.query)
        conversation = order.conversation
        if conversation is None:
            return await self._answered(order, await self._decided(order, [], delivery), delivery)
        said = self._said(order, delivery)
        decision = await self._decided_once(order, conversation, said, delivery)
        completion = await self._answered(order, decision, delivery)
        await self._runner.exchanges.remember(said, conversation, completion, self._runner.ask)
        return completion

    async def _decided_once(
        self, order: RouteOrder, conversation: ConversationUse, said: Job, delivery: Delivery
    ) -> Decision:
        """A task that is tried again goes by its first decision: its own turns may be there by now, and others'."""
        exchanges = self._runner.exchanges
        record = await exchanges.records.open(said)
        decision = record.found("decision", Decision)
        if decision is None:
            name = ConversationName(order.tenant, conversation.id)
            window = order.table.context.window if order.table.context else 0
            history = await patiently(partial(exchanges.conversations.aread, name, window))
            decision = await self._decided(order, history.turns, delivery)
            await record.keep("decision", decision)
        return decision

    async def _decided(self, order: RouteOrder, turns: list[Turn], delivery: Delivery) -> Decision:
        async def ask(request: CompletionRequest, name: str) -> Completion:
            how = {"priority": order.priority, "use_cache": order.use_cache}
            return await self._runner.ask(delivery.part(request.model_copy(update=how), name))

        async def embed(request: CompletionRequest) -> Completion:
            return await self._runner.embed(delivery.part(request, "embed"))

        outside = Outside(ask, Vectors(self._settings, order.tenant, embed), order.tenant)
        if order.table.context is None:
            return await decide(order.table, order.query, outside)
        analyze = analysis_by(order.table, outside)
        return await decide_in_conversation(order.table, order.query, turns, outside, analyze)

    async def _answered(self, order: RouteOrder, decision: Decision, delivery: Delivery) -> Completion:
        plan = order.plan(fitting(order.table, decision).agent or "")
        # A template may take its time: not on the loop.
        prompt = await asyncio.to_thread(plan.prompt, [decision.resolved_query])
        request = plan.asks(prompt).model_copy(update={"tenant": order.tenant, "priority": order.priority})
        completion = await self._runner.ask(delivery.job(request))
        return completion.model_copy(update={"decision": decision.model_dump(mode="json")})

    def _said(self, order: RouteOrder, delivery: Delivery) -> Job:
        """The query itself, as what the conversation remembers: not the prompt that the agent makes of it."""
        message = Message(role="user", content=order.query)
        said = CompletionRequest(model=_NOBODY, messages=(message,), tenant=order.tenant)
        return delivery.part(said, "route")
