"""A router that reads the conversation: while it decides, it finds out whether the query stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from kagura_tasks.conversations import ConversationMemory, Turn
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.routed import RoutedResult
from kagura_tasks.routers.agent_router import AgentRouter
from kagura_tasks.routing import deciding
from kagura_tasks.routing.context import ContextAnalyzer
from kagura_tasks.routing.decision import ContextAnalysis, Decision
from kagura_tasks.routing.order import exchange
from kagura_tasks.routing.table import ContextTerms, Strategy
from kagura_tasks.schemas import Completion, ConversationUse
from kagura_tasks.sources import WAITING


@dataclass(frozen=True)
class LLMContextAnalyzer:
    """A model finds out whether a query stands alone, and rewrites it where it does not. Its answers are remembered.

    Attributes:
        model: LiteLLM's name.
    """

    model: str


class MemoryAwareRouter(AgentRouter):
    """A router for conversations: "and in Kyoto?" goes to whoever was asked about Tokyo, with that question.

    Whether the turns before a query matter is found out while a first decision is made without them. Where they do not,
    that decision stands. Where they do, it is decided again, and the agent gets the resolved query. Nothing is run
    before the decision is final.

    What was asked and answered is appended to the conversation once the answer is there: by the worker where it was
    routed by `LLMClient.route`, else by whoever waits for the answer.
    """

    def __init__(
        self,
        strategy: Strategy = "intent",
        *,
        memory: ConversationMemory | None = None,
        context_window: int = 5,
        analyzer: ContextAnalyzer | LLMContextAnalyzer | None = None,
        **options: Any,
    ) -> None:
        """Take how to choose, and where conversations are.

        Args:
            strategy: See AgentRouter.
            memory: Default: one with the client's settings.
            context_window: So many of the last turns are looked at.
            analyzer: Who says whether they matter; default: rules for English and Japanese. One of your own is a
                subclass of ContextAnalyzer, and stays in the application.
            options: See AgentRouter.
        """
        super().__init__(strategy, **options)
        self._memory = memory
        self._analyzer = analyzer or ContextAnalyzer()
        self._window = context_window

    @property
    def memory(self) -> ConversationMemory:
        """Where conversations are."""
        if self._memory is None:
            self._memory = ConversationMemory(self.client.settings)
        return self._memory

    def decide(self, query: str, conversation_id: str | None = None) -> Decision:
        """Which agent the query is for, where it was asked. Runs none. See AgentRouter.decide."""
        return WAITING.run(self.adecide(query, conversation_id))

    async def adecide(self, query: str, conversation_id: str | None = None) -> Decision:
        """The same, without blocking the event loop."""
        self.table.check_query(query)
        turns = await self.memory.aturns(conversation_id, self._window) if conversation_id is not None else []
        return await deciding.decide_in_conversation(self.table, query, turns, self._outside, self._analyze)

    async def aroute(self, query: str, conversation_id: str | None = None, **arguments: Any) -> RoutedResult:
        """Decide, and submit the agent that was chosen, once. See AgentRouter.route; `route` is the same.

        Args:
            query: What was asked.
            conversation_id: Where; None: it stands alone, and is not remembered.
            arguments: Further ones of the agent's.
        """
        decision = await self.adecide(query, conversation_id)
        if conversation_id is None:
            return await self._answered(decision, arguments)
        memory, conversation = self.memory, conversation_id

        async def remember(task_id: str, completion: Completion) -> None:
            _ = await memory.aappend_all(conversation, exchange(query, completion.text, task_id))

        return await self._answered(decision, arguments, remember)

    async def _analyze(self, query: str, turns: Sequence[Turn]) -> ContextAnalysis:
        if isinstance(self._analyzer, LLMContextAnalyzer):
            return await deciding.analysis_by(self.table, self._outside)(query, turns)
        analysis: Any = self._analyzer.analyze(query, turns)
        return await analysis if isawaitable(analysis) else analysis

    @property
    def _context(self) -> ContextTerms:
        model = self._analyzer.model if isinstance(self._analyzer, LLMContextAnalyzer) else None
        return ContextTerms(window=self._window, model=model)

    @property
    def _tenant(self) -> str:
        return self.memory.tenant

    def _conversation(self, conversation_id: str | None) -> ConversationUse | None:
        if type(self._analyzer) not in (ContextAnalyzer, LLMContextAnalyzer):
            raise ConfigurationError("an analyzer of your own stays in the application: use the router's own route")
        if conversation_id is None:
            return None
        where, ours = self.memory.settings, self.client.settings
        if (where.execution, where.results) != (ours.execution, ours.results):
            hint = "ConversationMemory(client.settings)"
            raise ConfigurationError(f"workers keep conversations where the client's results are: {hint}")
        return ConversationUse(id=conversation_id, bounds=self.memory.bounds)
