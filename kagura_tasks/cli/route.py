"""`kagura-tasks route`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kagura_tasks.cli.options import AsJson

if TYPE_CHECKING:
    from rich.table import Table

    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.routers import AgentRouter
    from kagura_tasks.routing.decision import Decision, Scored


def route(
    query: Annotated[str, typer.Argument(help="What somebody asks.")],
    router: Annotated[
        str,
        typer.Option(metavar="MODULE:NAME", help="Where the router is; modules are found in this folder, too."),
    ],
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the scores of all agents, what matched, and what was said before.")
    ] = False,
    conversation: Annotated[
        str | None, typer.Option(metavar="ID", help="Where it is asked; the router is a MemoryAwareRouter.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which agent of a router a query is for. Decides as the router does, and runs none."""
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.routing.deciding import fitting

    found = _router_at(router)
    decision = _decided(found, query, conversation)
    ranked = found.ranked(decision)
    screen = Screen(as_json)
    scores = [one.model_dump(mode="json") for one in ranked]
    screen.document({**decision.model_dump(mode="json"), **({"scores": scores} if explain else {})})
    if decision.agent is not None:
        screen.say(f"{decision.agent}  {decision.score:.2f}  {decision.reason}")
    if explain:
        _explain(screen, decision, ranked)
    _ = fitting(found.table, decision)


def _router_at(place: str) -> AgentRouter:
    """The router at module:name. Raises ConfigurationError where there is none."""
    import sys
    from importlib import import_module

    from kagura_tasks.errors import ConfigurationError
    from kagura_tasks.routers import AgentRouter

    module, _, name = place.partition(":")
    sys.path.insert(0, "")
    try:
        found: object = getattr(import_module(module), name) if module and name else None
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"--router {place} cannot be loaded: {error}") from None
    if not isinstance(found, AgentRouter):
        raise ConfigurationError(f"--router {place} is no AgentRouter: give module:name of one")
    return found


def _decided(router: AgentRouter, query: str, conversation: str | None) -> Decision:
    from kagura_tasks.errors import ConfigurationError
    from kagura_tasks.routers import MemoryAwareRouter

    if conversation is None:
        return router.decide(query)
    if not isinstance(router, MemoryAwareRouter):
        raise ConfigurationError("--conversation needs a router that reads conversations: a MemoryAwareRouter")
    return router.decide(query, conversation)


def _explain(screen: Screen, decision: Decision, ranked: list[Scored]) -> None:
    from kagura_tasks.cli.screen import printable

    if decision.agent is None:
        screen.say(f"nobody  {decision.score:.2f}  {decision.reason}")
    screen.title("Scores")
    screen.table(_scores(ranked))
    screen.say(f"decided by {decision.strategy} in {decision.ms:.2f} ms")
    context = decision.context
    if context is None:
        return
    screen.title("Conversation")
    if not context.turns:
        screen.say("nothing was said before")
    reasons = ", ".join(context.reasons) or "nothing in it refers to what was said before"
    screen.say(f"needs it: {'yes' if context.needs_context else 'no'} ({reasons})")
    if context.resolved_query is not None:
        screen.say(printable(context.resolved_query))


def _scores(ranked: list[Scored]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("agent", "score", "matched", box=None, pad_edge=False)
    for one in ranked:
        table.add_row(Text(one.agent), f"{one.score:.2f}", Text("; ".join(one.matched)))
    return table
