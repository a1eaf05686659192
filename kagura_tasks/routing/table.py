"""The agents among which a decision chooses, as they travel."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cached_property
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from kagura_tasks.errors import ConfigurationError, InvalidRequest, QueryTooLong
from kagura_tasks.plans import ReducePlan
from kagura_tasks.schemas import ModelName, Wire, problems_of

Strategy = Literal["intent", "semantic", "llm"]

#: The embedding model of the extra `semantic`, which runs where the decision is made.
LOCAL: Final = "local"

#: From which score on an agent fits, where nobody says.
_THRESHOLDS: Final[dict[Strategy, float]] = {"intent": 0.35, "semantic": 0.35, "llm": 0.5}
_LOCAL_THRESHOLD: Final = 0.43

_Phrase = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class Route(Wire):
    """An agent, as far as a decision knows it.

    Attributes:
        name: Unique in its table.
        description: What it is for, in a sentence: the strategy "llm" goes by it.
        intents: Words and phrases that ask for it: "intent" goes by them.
        samples: Queries that are for it: "semantic" goes by them, "intent" a little.
        plan: How it answers, its first parameter being the query; None where only the application can run it.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    description: Annotated[str, StringConstraints(max_length=2_000)] = ""
    intents: tuple[_Phrase, ...] = Field(default=(), max_length=1_000)
    samples: tuple[_Phrase, ...] = Field(default=(), max_length=1_000)
    plan: ReducePlan | None = None

    @classmethod
    def build(cls, **fields: object) -> Self:
        """The agent. Raises ConfigurationError where it cannot be one."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ConfigurationError(f"the agent cannot be registered so: {problems_of(error)}") from None


class ContextTerms(Wire):
    """How a query is understood in its conversation.

    Attributes:
        window: So many of the last turns are looked at.
        model: Who says whether they are needed, and rewrites the query; None: rules do (see ContextAnalyzer).
    """

    window: int = Field(default=5, gt=0, le=100)
    model: ModelName | None = None


class RouteTable(Wire):
    """All agents of a router, and how it chooses among them.

    Attributes:
        strategy: See strategies.py.
        routes: The agents.
        fallback: Who takes what fits nobody.
        confidence_threshold: The score from which on an agent fits, from 0 to 1; None is the strategy's own.
        model: Who chooses, with the strategy "llm".
        embedding: LiteLLM's name of an embedding model, or "local" for that of the extra `semantic`.
        max_query_chars: Longest query.
        context: How conversations are read; None: they are not.
    """

    strategy: Strategy = "intent"
    routes: tuple[Route, ...] = Field(min_length=1, max_length=1_000)
    fallback: Route | None = None
    confidence_threshold: float | None = Field(default=None, ge=0, le=1)
    model: ModelName | None = None
    embedding: ModelName = LOCAL
    max_query_chars: int = Field(default=4_000, gt=0, le=100_000)
    context: ContextTerms | None = None

    @classmethod
    def build(cls, **fields: object) -> Self:
        """The table. Raises ConfigurationError where it cannot be one."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ConfigurationError(f"the router is not well-formed: {problems_of(error)}") from None

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        counts = Counter(route.name for route in self.routes)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise ValueError(f"two agents have the name {', '.join(twice)}")
        if self.strategy == "llm" and self.model is None:
            raise ValueError("the strategy llm needs a model")
        return self

    @property
    def threshold(self) -> float:
        """The score from which on an agent fits."""
        if self.confidence_threshold is not None:
            return self.confidence_threshold
        is_local = self.strategy == "semantic" and self.embedding == LOCAL
        return _LOCAL_THRESHOLD if is_local else _THRESHOLDS[self.strategy]

    @cached_property
    def sha(self) -> str:
        """Equal for tables that decide equally. How the agents answer does not count."""
        about = {"routes": {"__all__": {"plan"}}, "fallback": {"plan"}}
        fields = self.model_dump(mode="json", exclude=about)
        canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    def route(self, name: str) -> Route:
        """The agent, or the fallback, of this name. Raises KeyError."""
        every = self.routes if self.fallback is None else (*self.routes, self.fallback)
        return {route.name: route for route in reversed(every)}[name]

    def check_query(self, query: str) -> None:
        """Raise InvalidRequest for a query that is none, QueryTooLong for one that is too long."""
        if len(query) > self.max_query_chars:
            raise QueryTooLong(len(query), self.max_query_chars)
        if not query.strip():
            raise InvalidRequest("the query is empty")
        try:
            _ = query.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("the query holds half a character (a lone surrogate): it is no text") from None
