"""What is asked of whoever routes a query and answers it: agents, query, conversation."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from kagura_tasks.conversations.turns import NewTurn
from kagura_tasks.errors import InvalidRequest, PromptTooLarge
from kagura_tasks.plans import ReducePlan
from kagura_tasks.routing.table import RouteTable
from kagura_tasks.schemas import ConversationUse, Priority, TenantName, Wire


class RouteOrder(Wire):
    """One query, to be decided and answered in one task.

    Attributes:
        table: The agents, each with its plan.
        query: What was asked.
        tenant: Whose data it is, whatever an agent's plan says.
        conversation: Where it was asked: it is read before the decision, and gets the query and its answer.
        use_cache: What is asked to decide is remembered. The agents' plans say it for their answers.
        priority: See Priority. Of an order, the agents' own do not count.
    """

    table: RouteTable
    query: str = Field(repr=False)
    tenant: TenantName = "default"
    conversation: ConversationUse | None = None
    use_cache: bool = True
    priority: Priority = Priority.NORMAL

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        every = (*self.table.routes, *([self.table.fallback] if self.table.fallback else []))
        if lacking := [route.name for route in every if route.plan is None]:
            raise ValueError(f"no worker can run {', '.join(lacking)}: only an @agent travels")
        if self.conversation is not None and self.table.context is None:
            raise ValueError("only a MemoryAwareRouter reads conversations")
        return self

    def check_size(self, limit_bytes: int) -> None:
        """Raise PromptTooLarge."""
        size_bytes = len(self.model_dump_json(exclude_defaults=True).encode())
        if size_bytes > limit_bytes:
            raise PromptTooLarge(size_bytes, limit_bytes)

    def plan(self, name: str) -> ReducePlan:
        """How the agent of this name answers. Raises InvalidRequest where it cannot."""
        plan = self.table.route(name).plan
        if plan is None:
            raise InvalidRequest(f"no worker can run {name}")
        return plan


def exchange(query: str, answer: str, task_id: str) -> list[NewTurn]:
    """What a routed query adds to its conversation; by the turns' ids, once."""
    asked = NewTurn("user", query, f"{task_id}.user")
    return [asked, NewTurn("assistant", answer, f"{task_id}.assistant")] if answer.strip() else [asked]
