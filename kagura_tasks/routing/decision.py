"""A decision, with all that is needed to come to it again."""

from __future__ import annotations

import hashlib

from pydantic import Field

from kagura_tasks.routing.table import Strategy
from kagura_tasks.schemas import Json, Wire


class Scored(Wire):
    """An agent and how well it fits, from 0 to 1.

    Attributes:
        agent: Its name.
        score: How well it fits.
        matched: Which of its intents or samples say so, the best first.
    """

    agent: str
    score: float
    matched: tuple[str, ...] = ()


class ContextAnalysis(Wire):
    """Whether a query can be understood without the turns before it, and what it means with them.

    Attributes:
        needs_context: It cannot.
        reasons: What shows it: a pronoun, a follow-up, ...
        resolved_query: The query as an agent gets it; None where it stays as it is.
        rewritten: The query as one sentence that stands alone; None where nobody wrote one.
        earlier: What the user asked before, and the query goes on about; oldest first.
        turns: The numbers of the turns that were looked at.
    """

    needs_context: bool = False
    reasons: tuple[str, ...] = ()
    resolved_query: str | None = Field(default=None, repr=False)
    rewritten: str | None = Field(default=None, repr=False)
    earlier: tuple[str, ...] = Field(default=(), repr=False)
    turns: tuple[int, ...] = ()


class Question(Wire):
    """What is decided about: a text, and what the user asked before, where the text goes on about that."""

    text: str
    earlier: tuple[str, ...] = ()

    @classmethod
    def of(cls, query: str, context: ContextAnalysis | None) -> Question:
        """The question in a query, as it is understood in its conversation."""
        if context is None:
            return cls(text=query)
        return cls(text=context.rewritten or query, earlier=context.earlier)


class Decision(Wire):
    """Which agent a query is for. A record: `replay` comes to the same decision from it and the router alone.

    It holds the query: it belongs beside the answer, not into a log. A log may have `query_sha`.

    Attributes:
        agent: The agent's name; None where none fits, and there is no fallback.
        score: How well it fits, from 0 to 1; of the fallback, how well the best other one did.
        runners_up: The next best, at most five.
        matched: Which of the agent's intents or samples say so.
        reason: Why, in a few words.
        is_fallback: No agent fitted well enough.
        strategy: How it was decided.
        ms: Milliseconds from the query to the decision, calls of models included.
        query: What was asked.
        context: What the conversation had to do with it; None where none was looked at.
        table_sha: Which agents there were to choose from; see RouteTable.sha.
        evidence: What the strategy was told by others: a model's answer, or cosines.
    """

    agent: str | None
    score: float
    runners_up: tuple[Scored, ...] = ()
    matched: tuple[str, ...] = ()
    reason: str = Field(repr=False)
    is_fallback: bool = False
    strategy: Strategy
    ms: float = 0.0
    query: str = Field(repr=False)
    context: ContextAnalysis | None = None
    table_sha: str
    evidence: Json = Field(default_factory=dict, repr=False)

    @property
    def query_sha(self) -> str:
        """The query's name where its text must not be: SHA-256 in hex."""
        return hashlib.sha256(self.query.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def question(self) -> Question:
        """What was decided about."""
        return Question.of(self.query, self.context)

    @property
    def resolved_query(self) -> str:
        """The query as the agent gets it."""
        return (self.context and self.context.resolved_query) or self.query
