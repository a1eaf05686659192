"""From a query to a decision. What the outside says is gathered first; what follows from it is a pure function."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import ValidationError

from kagura_tasks.conversations.turns import Turn
from kagura_tasks.errors import InvalidRequest, NoAgentFound
from kagura_tasks.parallel import parallel_gather
from kagura_tasks.routing.context import ContextAnalyzer, analysis_in, analysis_request
from kagura_tasks.routing.decision import ContextAnalysis, Decision, Question, Scored
from kagura_tasks.routing.intent import DIGITS, IntentIndex
from kagura_tasks.routing.llm_choice import choice_request, choice_scores
from kagura_tasks.routing.semantic import Vector, evidence_of, nearness, samples_of, scores_in
from kagura_tasks.routing.table import RouteTable
from kagura_tasks.schemas import Completion, CompletionRequest, Json

#: Answers a request of a strategy's. The name is the same in a second try.
Ask = Callable[[CompletionRequest, str], Awaitable[Completion]]

#: The vectors of texts, by an embedding model's name. The second ones are queries, and not worth keeping.
Embed = Callable[[str, Sequence[str], Sequence[str]], Awaitable[tuple[Sequence[Vector], Sequence[Vector]]]]

#: What a query has to do with the turns before it.
Analyze = Callable[[str, Sequence[Turn]], Awaitable[ContextAnalysis]]

#: What the user asked before counts less than what is asked now.
_EARLIER: Final = 0.8

_RUNNERS_UP: Final = 5

#: Tables whose phrases a process keeps, by their hashes; and from which length on a query is cut in a thread.
_MOST_INDEXES: Final = 32
_LONG_CHARS: Final = 1_000

_indexes: Final[dict[str, IntentIndex]] = {}


@dataclass(frozen=True)
class Outside:
    """What a decision may ask of others."""

    ask: Ask
    embed: Embed
    tenant: str


async def decide(
    table: RouteTable, query: str, outside: Outside, context: ContextAnalysis | None = None, name: str = "decide"
) -> Decision:
    """Which agent the query is for. Runs none.

    Args:
        table: The agents.
        query: What was asked.
        outside: Who answers what the strategy asks.
        context: What the query has to do with what was said before.
        name: What the strategy's request is called.

    Raises:
        InvalidRequest: The query is empty, or no text; QueryTooLong: it is longer than the table takes.
        KaguraTasksError: What asking raises.
    """
    started = time.perf_counter()
    table.check_query(query)
    question = Question.of(query, context)
    evidence = await _gathered(table, question, outside, name)
    if _takes_its_time(table, question):
        decision = await asyncio.to_thread(concluded, table, query, context, evidence)
    else:
        decision = concluded(table, query, context, evidence)
    return decision.model_copy(update={"ms": _ms_since(started)})


async def decide_in_conversation(
    table: RouteTable, query: str, turns: Sequence[Turn], outside: Outside, analyze: Analyze
) -> Decision:
    """The same behind these turns. Whether they matter is found out while a first decision is made without them: it
    stands where they do not.
    """
    started = time.perf_counter()
    table.check_query(query)
    if not turns:
        return await decide(table, query, outside, ContextAnalysis())
    both = await parallel_gather(analyze(query, turns), decide(table, query, outside))
    context, decision = cast("tuple[ContextAnalysis, Decision]", tuple(both))
    if context.resolved_query is not None:
        decision = await decide(table, query, outside, context, "decide-again")
    return decision.model_copy(update={"context": context, "ms": _ms_since(started)})


def analysis_by(table: RouteTable, outside: Outside) -> Analyze:
    """How the table wants conversations to be read: by rules, or by its model."""
    model = table.context.model if table.context else None

    async def by_rules(query: str, turns: Sequence[Turn]) -> ContextAnalysis:
        return ContextAnalyzer().analyze(query, turns)

    async def by_model(query: str, turns: Sequence[Turn]) -> ContextAnalysis:
        request = analysis_request(model or "", query, turns, outside.tenant)
        return analysis_in((await outside.ask(request, "analyze")).text, query, turns, table.max_query_chars)

    return by_rules if model is None else by_model


def replay(table: RouteTable, record: Decision) -> Decision:
    """The decision that follows from a record and these agents: the same one. Asks nobody.

    Raises:
        InvalidRequest: It was made with other agents, or it is no record.
    """
    if record.table_sha != table.sha:
        raise InvalidRequest(
            "the decision was made with another router: its agents, their intents or its options differ"
        )
    return concluded(table, record.query, record.context, record.evidence).model_copy(update={"ms": record.ms})


def fitting(table: RouteTable, decision: Decision) -> Decision:
    """The decision, if it is for somebody. Raises NoAgentFound."""
    if decision.agent is None:
        raise NoAgentFound(table.threshold, {one.agent: one.score for one in decision.runners_up})
    return decision


def ranked(table: RouteTable, decision: Decision) -> list[Scored]:
    """All agents that the decision saw in the query, best first. Raises InvalidRequest for a record that is none."""
    scores, _ = _scores(table, decision.question, decision.evidence)
    return _best_first(scores)


def concluded(table: RouteTable, query: str, context: ContextAnalysis | None, evidence: Json) -> Decision:
    """What follows from the query, its context, and what others said. Raises InvalidRequest for foreign evidence."""
    scores, reason = _scores(table, Question.of(query, context), evidence)
    found = _best_first(scores)
    best = found[0] if found else None
    record: dict[str, Any] = {
        "strategy": table.strategy,
        "query": query,
        "context": context,
        "table_sha": table.sha,
        "evidence": evidence,
        "score": best.score if best else 0.0,
    }
    if best is not None and best.score >= table.threshold:
        record |= {"agent": best.agent, "matched": best.matched, "runners_up": tuple(found[1 : _RUNNERS_UP + 1])}
        return Decision(**record, reason=reason or f"it fits: {', '.join(best.matched)}")
    fallback = table.fallback.name if table.fallback else None
    too_low = f"no agent scores {table.threshold:g}" + (f" ({reason})" if reason else "")
    runners_up = tuple(found[:_RUNNERS_UP])
    return Decision(**record, agent=fallback, is_fallback=True, reason=too_low, runners_up=runners_up)


async def _gathered(table: RouteTable, question: Question, outside: Outside, name: str) -> Json:
    """What the strategy needs to know from others; of "intent", nothing."""
    if table.strategy == "llm":
        return {"answer": (await outside.ask(choice_request(table, question, outside.tenant), name)).text[:10_000]}
    if table.strategy == "semantic":
        return await _compared(table, question, outside)
    return {}


async def _compared(table: RouteTable, question: Question, outside: Outside) -> Json:
    texts = [samples_of(route) for route in table.routes]
    asked = [question.text, *(["\n".join(question.earlier)] if question.earlier else [])]
    flat = [text for samples in texts for text in samples]
    vectors, (query, *before) = await outside.embed(table.embedding, flat, asked)
    each = iter(vectors)
    samples = [[next(each) for _ in some] for some in texts]

    def compared() -> Json:
        scores = nearness(table, samples, query)
        if before:
            scores = _with_earlier(scores, nearness(table, samples, before[0]))
        return evidence_of(scores, query)

    return await asyncio.to_thread(compared)


def _scores(table: RouteTable, question: Question, evidence: Json) -> tuple[list[Scored], str]:
    """How each agent fits, and the reason where the strategy gives one."""
    if table.strategy == "llm":
        return choice_scores(table.routes, str(evidence.get("answer", "")))
    if table.strategy == "semantic":
        try:
            return scores_in(evidence), ""
        except ValidationError:
            raise InvalidRequest("the decision's record holds no scores") from None
    index = _index(table)
    scores = index.scores(question.text)
    if question.earlier:
        scores = _with_earlier(scores, index.scores("\n".join(question.earlier)))
    return scores, ""


def _best_first(scores: Sequence[Scored]) -> list[Scored]:
    """Those that fit at all. Of equals, who was registered first."""
    return sorted((one for one in scores if one.score > 0), key=lambda one: -one.score)


def _with_earlier(now: Sequence[Scored], before: Sequence[Scored]) -> list[Scored]:
    """The better of both, of each agent."""
    weighed = [one.model_copy(update={"score": round(one.score * _EARLIER, DIGITS)}) for one in before]
    return [max(pair, key=lambda one: one.score) for pair in zip(now, weighed, strict=True)]


def _index(table: RouteTable) -> IntentIndex:
    """The table's phrases, cut into terms once."""
    index = _indexes.get(table.sha)
    if index is None:
        index = _indexes[table.sha] = IntentIndex(table.routes)
        for oldest in list(_indexes)[:-_MOST_INDEXES]:
            _ = _indexes.pop(oldest, None)
    return index


def _takes_its_time(table: RouteTable, question: Question) -> bool:
    """Milliseconds, or more: not on an event loop."""
    return table.strategy == "intent" and (table.sha not in _indexes or len(question.text) > _LONG_CHARS)


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
