"""Chooses the agent that a query is for, and lets it answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kagura_tasks.client import LLMClient
from kagura_tasks.errors import ConfigurationError, InvalidRequest
from kagura_tasks.functions import default_client
from kagura_tasks.requests import priority_of
from kagura_tasks.routed import RoutedAnswer, RoutedResult
from kagura_tasks.routers.handlers import Handler, Registered
from kagura_tasks.routing import deciding
from kagura_tasks.routing.decision import Decision, Scored
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.routing.table import LOCAL, ContextTerms, Route, RouteTable, Strategy
from kagura_tasks.routing.vectors import Vectors
from kagura_tasks.schemas import Completion, CompletionRequest, ConversationUse, Priority
from kagura_tasks.sources import WAITING


class AgentRouter:
    """Agents, and a way to choose among them. Safe to share once all agents are registered.

    A call with the prefix `a` is the same for `async` code. To decide by intents asks nobody. The other strategies ask
    models, through workers like any other call: then `decide` waits for them.
    """

    def __init__(
        self,
        strategy: Strategy = "intent",
        *,
        client: LLMClient | None = None,
        confidence_threshold: float | None = None,
        fallback_agent: Handler | None = None,
        model: str | None = None,
        embedding: str = LOCAL,
        max_query_chars: int = 4_000,
    ) -> None:
        """Take how to choose. Asks and loads nothing yet.

        Args:
            strategy: "intent" (words and phrases), "semantic" (nearness to samples) or "llm" (a model picks).
            client: Who asks models; default: the default client. Agents send through their own.
            confidence_threshold: The score from which on an agent fits, from 0 to 1; default: the strategy's own.
            fallback_agent: Who takes what fits nobody; default: that is an error.
            model: Who picks, with "llm"; default: the client's model.
            embedding: Of "semantic": "local" (the extra `semantic`), or LiteLLM's name of an embedding model.
            max_query_chars: Longest query.

        Raises:
            ConfigurationError: The fallback is neither an agent nor a coroutine function.
        """
        self._client = client
        self._how: dict[str, object] = {
            "strategy": strategy,
            "confidence_threshold": confidence_threshold,
            "embedding": embedding,
            "max_query_chars": max_query_chars,
        }
        self._model = model
        self._agents: dict[str, Registered] = {}
        self._fallback = Registered.of(fallback_agent) if fallback_agent is not None else None
        self._table: RouteTable | None = None
        self._planned: RouteTable | None = None

    def register(
        self,
        agent: Handler,
        intents: Sequence[str] = (),
        samples: Sequence[str] = (),
        description: str = "",
        name: str | None = None,
    ) -> None:
        """Add an agent.

        Args:
            agent: An `@agent`, or a coroutine function of your own. It gets the query as its first argument.
            intents: Words and phrases that ask for it.
            samples: Queries that are for it.
            description: What it is for, in a sentence.
            name: Default: the function's.

        Raises:
            ConfigurationError: The name is taken, nothing says what the agent is for, or what does is no list.
        """
        if isinstance(intents, str) or isinstance(samples, str):
            raise ConfigurationError("intents and samples are lists of texts, not one text")
        added = Registered.of(agent, name, intents=tuple(intents), samples=tuple(samples), description=description)
        self._check_new(added)
        self._agents[added.route.name] = added
        self._table = self._planned = None

    def list_agents(self) -> list[str]:
        """The names of all agents, in the order in which they were registered."""
        return list(self._agents)

    @property
    def fallback_agent(self) -> str | None:
        """The name of whoever takes what fits nobody."""
        return self._fallback.route.name if self._fallback else None

    @property
    def confidence_threshold(self) -> float:
        """The score from which on an agent fits."""
        return self.table.threshold

    @property
    def table(self) -> RouteTable:
        """All agents and options, as a decision sees them. Raises ConfigurationError where there is no agent."""
        if self._table is None:
            self._table = self._built(lambda one: one.route)
        return self._table

    def decide(self, query: str) -> Decision:
        """Which agent the query is for. Runs none.

        Raises:
            InvalidRequest: The query is empty, no text, or too long (QueryTooLong).
            ConfigurationError: The router has no agent, or lacks what its strategy needs.
            KaguraTasksError: What asking a model raises.
        """
        return WAITING.run(self.adecide(query))

    async def adecide(self, query: str) -> Decision:
        """The same, without blocking the event loop."""
        return await deciding.decide(self.table, query, self._outside)

    def get_matched_agents(self, query: str, top_k: int = 3) -> list[Scored]:
        """The agents that fit the query at all, best first, whatever the threshold. Raises what `decide` raises."""
        return self.ranked(self.decide(query))[:top_k]

    async def aget_matched_agents(self, query: str, top_k: int = 3) -> list[Scored]:
        """The same, without blocking the event loop."""
        return self.ranked(await self.adecide(query))[:top_k]

    def ranked(self, decision: Decision) -> list[Scored]:
        """All agents that fitted at all when this was decided, best first. Raises as `replay` does."""
        return deciding.ranked(self.table, decision)

    def replay(self, record: Decision) -> Decision:
        """The decision that follows from a record: the same. Asks nobody.

        Raises:
            InvalidRequest: It was made by another router, or with other agents, intents or options.
        """
        return deciding.replay(self.table, record)

    def route(self, query: str, **arguments: Any) -> RoutedResult:
        """Decide, and submit the agent that was chosen, once.

        Args:
            query: What the agent gets as its first argument.
            arguments: Its further ones.

        Raises:
            NoAgentFound: No agent fits, and there is no fallback. None was run.
            KaguraTasksError: As `decide`, and as the agent's own `submit`.
        """
        return WAITING.run(self.aroute(query, **arguments))

    async def aroute(self, query: str, **arguments: Any) -> RoutedResult:
        """The same, without blocking the event loop. A coroutine function runs on it."""
        return await self._answered(await self.adecide(query), arguments)

    def order(
        self,
        query: str,
        *,
        conversation_id: str | None = None,
        tenant: str | None = None,
        priority: Priority | str | int = Priority.NORMAL,
    ) -> RouteOrder:
        """What a worker is asked, so that it decides and answers in one task. See LLMClient.route.

        Raises:
            ConfigurationError: An agent cannot travel, or there is none.
            InvalidRequest: As `decide`; or there is a conversation, and this router reads none.
            PromptTooLarge: All agents together are larger than a message may be.
        """
        if self._planned is None:
            self._planned = self._built(Registered.planned)
        self._planned.check_query(query)
        settings = self.client.settings
        order = RouteOrder(
            table=self._planned,
            query=query,
            tenant=tenant or self._tenant,
            conversation=self._conversation(conversation_id),
            use_cache=settings.cache_enabled,
            priority=priority_of(priority),
        )
        order.check_size(settings.max_prompt_bytes)
        return order

    async def finish(self, decision: Decision, completion: Completion) -> Completion:
        """The completion as the chosen agent declares it: `parsed` fits its model.

        Raises OutputInvalid where the answer did not fit, also when it was asked again.
        """
        return await self._chosen(decision).finished(decision.resolved_query, completion)

    @property
    def client(self) -> LLMClient:
        """Who asks models: the router's own client, or the default one."""
        return self._client or default_client()

    async def _answered(
        self,
        decision: Decision,
        arguments: dict[str, Any],
        told: Callable[[str, Completion], Awaitable[None]] | None = None,
    ) -> RoutedResult:
        """The agent's answer on its way. `told` is awaited with its id and itself, before anybody gets it."""
        chosen = self._chosen(deciding.fitting(self.table, decision))
        result = await chosen.answer(decision.resolved_query, arguments)

        async def finish(_: Decision, completion: Completion) -> Completion:
            if told is not None:
                await told(result.id, completion)
            return completion

        return RoutedResult(result.id, RoutedAnswer(result.source, finish, decision))

    @property
    def _outside(self) -> deciding.Outside:
        async def ask(request: CompletionRequest, _name: str) -> Completion:
            return await self.client.acomplete(request.model_copy(update={"use_cache": settings.cache_enabled}))

        settings = self.client.settings
        return deciding.Outside(ask, Vectors(settings, settings.tenant, self.client.aembed), settings.tenant)

    @property
    def _context(self) -> ContextTerms | None:
        return None

    @property
    def _tenant(self) -> str:
        return self.client.settings.tenant

    def _conversation(self, conversation_id: str | None) -> ConversationUse | None:
        if conversation_id is not None:
            raise InvalidRequest("this router reads no conversations: make it a MemoryAwareRouter")
        return None

    def _chosen(self, decision: Decision) -> Registered:
        found = self._agents.get(decision.agent or "") or self._fallback
        if found is None or found.route.name != decision.agent:
            raise InvalidRequest(f"this router has no agent {decision.agent}")
        return found

    def _check_new(self, added: Registered) -> None:
        name, route = added.route.name, added.route
        if name in self._agents:
            raise ConfigurationError(f"there is an agent {name} already: give this one another name")
        fallback = self._fallback
        if fallback is not None and fallback.route.name == name and fallback.handler is not added.handler:
            raise ConfigurationError(f"the fallback is another {name}: give this one another name")
        if not (route.intents or route.samples or route.description):
            raise ConfigurationError(f"nothing says what {name} is for: give intents, samples or a description")

    def _built(self, shown: Callable[[Registered], Route]) -> RouteTable:
        if not self._agents:
            raise ConfigurationError("the router has no agent: register one")
        needs_model = self._how["strategy"] == "llm" and self._model is None
        return RouteTable.build(
            **self._how,
            model=self.client.settings.default_model if needs_model else self._model,
            context=self._context,
            routes=tuple(shown(one) for one in self._agents.values()),
            fallback=shown(self._fallback) if self._fallback else None,
        )
