"""What keeps a query from its agent."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError
from kagura_tasks.errors.requests import InvalidRequest


class QueryTooLong(InvalidRequest):
    """The query is longer than the router takes."""

    def __init__(self, size_chars: int, limit_chars: int) -> None:
        """Take both lengths in characters."""
        super().__init__(size_chars, limit_chars)
        self.size_chars = size_chars
        self.limit_chars = limit_chars

    def __str__(self) -> str:
        """Say both lengths, and what moves the limit."""
        return (
            f"the query has {self.size_chars:,} characters and the router takes {self.limit_chars:,}: "
            "route by its first lines, or raise the router's max_query_chars"
        )


class NoAgentFound(KaguraTasksError):
    """No agent fits the query, and the router has no fallback. No agent was run."""

    def __init__(self, threshold: float, best: dict[str, float]) -> None:
        """Take the score that was needed, and those of the best agents, best first."""
        super().__init__(threshold, best)
        self.threshold = threshold
        self.best = best

    def __str__(self) -> str:
        """Name the best, and the ways out."""
        near = ", ".join(f"{name} {score:.2f}" for name, score in self.best.items()) or "none is near"
        return (
            f"no agent scores {self.threshold:.2f} ({near}): add intents or samples, lower confidence_threshold, "
            "or give the router a fallback_agent"
        )
