"""Routers in tests: agents whose prompts say which of them was asked, and what the provider saw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from kagura_tasks import (
    Agent,
    AgentRouter,
    Completion,
    ConversationMemory,
    LLMClient,
    MemoryAwareRouter,
    Settings,
    agent,
)
from tests.support.llm import StubServer

#: Seconds after which an answer is no longer waited for.
TIMEOUT_S: Final = 60

#: Routes a query by a router, in one of both ways, and waits for the answer.
Route = Callable[..., Awaitable[Completion]]

#: What asks for each agent.
INTENTS: Final = {
    "weather": ["weather", "forecast", "天気"],
    "refunds": ["refund", "send back", "返品"],
    "translation": ["translate", "翻訳"],
}
DESCRIPTIONS: Final = {
    "weather": "Tells how the weather will be.",
    "refunds": "Takes things back.",
    "translation": "Translates texts.",
}


@dataclass(frozen=True)
class Prompt:
    """What an agent's model was told: which agent, and the query as it got it."""

    agent: str
    query: str
    started_at: float


class RoutingScene:
    """One test: with a tenant of its own, and a word that no other test uses."""

    def __init__(self, settings: Settings, stub: StubServer) -> None:
        self.stub = stub
        self.word = uuid4().hex
        self.settings = settings.override(tenant=f"test-{self.word[:8]}")
        self.client = LLMClient(self.settings)
        self.memory = ConversationMemory(self.settings)

    def agent(self, name: str, **options: Any) -> Agent[Any, Any]:
        """An agent whose prompt is its name, the test's word and the query."""

        async def answer(query: str) -> str:
            raise AssertionError

        answer.__name__ = name
        answer.__doc__ = f"[{name} {self.word}] {{{{ query }}}}"
        made: Agent[Any, Any] = agent(client=self.client, **options)(answer)
        return made

    def router(self, strategy: str = "intent", **options: Any) -> AgentRouter:
        """A router with all three of them."""
        return self.filled(AgentRouter(strategy, client=self.client, **options))  # type: ignore[arg-type]

    def memory_router(self, strategy: str = "intent", **options: Any) -> MemoryAwareRouter:
        """The same, which reads conversations."""
        made = MemoryAwareRouter(strategy, client=self.client, memory=self.memory, **options)  # type: ignore[arg-type]
        return self.filled(made)

    def filled(self, router: Any) -> Any:
        for name, intents in INTENTS.items():
            router.register(self.agent(name), intents=intents, description=DESCRIPTIONS[name])
        return router

    def prompts(self) -> list[Prompt]:
        """What agents' models were told, oldest first."""
        found: list[Prompt] = []
        for one in self.stub.ledger()["requests"]:
            messages = one["body"].get("messages", [{"content": ""}])
            head, _, query = str(messages[-1]["content"]).partition(f" {self.word}] ")
            if query:
                found.append(Prompt(head.removeprefix("["), query, one["started_at"]))
        return found
