"""Answers to routed queries: an answer, and the decision that led to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

from kagura_tasks.results import LLMResult
from kagura_tasks.routing.decision import Decision
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion, Priority
from kagura_tasks.sources import AnswerSource
from kagura_tasks.streaming.events import Event

#: What is done with an answer before its caller gets it.
Finish = Callable[[Decision, Completion], Awaitable[Completion]]


class Routes(Protocol):
    """A router, as a client sees it. See AgentRouter."""

    def order(
        self,
        query: str,
        *,
        conversation_id: str | None = None,
        tenant: str | None = None,
        priority: Priority | str | int,
    ) -> RouteOrder:
        """What a worker is asked, so that it decides and answers."""
        ...

    async def finish(self, decision: Decision, completion: Completion) -> Completion:
        """The completion as the chosen agent declares it."""
        ...


class RoutedResult(LLMResult):
    """The answer to a routed query: an LLMResult that knows which agent it is of."""

    def __init__(self, task_id: str, source: RoutedAnswer) -> None:
        """Take the task's id, and where answer and decision come from."""
        super().__init__(task_id, source)
        self._routed = source

    @property
    def decision(self) -> Decision | None:
        """Which agent answers, and why. None as long as only a worker knows: until the answer was got."""
        return self._routed.decision


class RoutedAnswer:
    """The answer of an agent that was chosen, here or by a worker."""

    def __init__(self, source: AnswerSource, finish: Finish, decision: Decision | None = None) -> None:
        """Take where the answer comes from; what is done with it; and the decision, unless a worker makes it."""
        self._source = source
        self._finish = finish
        self.decision = decision

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource. Also raises what finishing raises, and NoAgentFound."""
        completion = await self._source.answer(timeout_s)
        if self.decision is None:
            self.decision = Decision.model_validate(completion.decision)
        finished = await self._finish(self.decision, completion)
        return finished.model_copy(update={"decision": self.decision.model_dump(mode="json")})

    def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource."""
        return self._source.batches(after)

    def status(self) -> str:
        """See AnswerSource."""
        return self._source.status()

    def cancel(self) -> None:
        """See AnswerSource."""
        self._source.cancel()
