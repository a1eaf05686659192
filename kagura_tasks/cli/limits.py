"""`kagura-tasks limits`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from kagura_tasks.cli.options import AsJson

if TYPE_CHECKING:
    from rich.table import Table

    from kagura_tasks.limits.store import Standing
    from kagura_tasks.settings import Settings

_NANO = 1_000_000_000


def limits(
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Print how the fleet's limits and budgets stand: what is used, who waits, what is closed, and for how long.

    A limit is here from its first call on, for a day; a budget for its day (UTC).
    """
    from rich.live import Live

    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.settings import load_settings

    settings, screen = load_settings(), Screen(as_json)
    require_redis(settings.broker)
    standings = _standings(settings)
    if not watch or as_json:
        screen.document(_document(standings))
        if standings:
            screen.table(_table(standings))
        else:
            screen.say("no limit or budget was used today: KAGURA_TASKS_LIMITS on the workers says what they are")
        return
    with suppress(KeyboardInterrupt), Live(_table(standings), console=screen.notes) as live:
        while True:
            time.sleep(interval_s)
            live.update(_table(_standings(settings)))


def _standings(settings: Settings) -> list[Standing]:
    """All limits and budgets. Raises RedisUnreachable."""
    from kagura_tasks.connections import async_client, close_async_clients, redis_errors
    from kagura_tasks.limits.store import LimitStore

    async def asking() -> list[Standing]:
        try:
            with redis_errors(settings.broker):
                return await LimitStore(async_client(settings.broker, settings.redis_timeout_s)).standings()
        finally:
            await close_async_clients()

    return asyncio.run(asking())


def _document(standings: list[Standing]) -> dict[str, object]:
    """For machines: limits by their pattern, budgets by their tenant ("" is that of all)."""
    limits = {one.name: one.fields for one in standings if one.kind == "limit"}
    budgets = {
        one.name: {f"{field}_usd": amount / _NANO for field, amount in one.fields.items()}
        for one in standings
        if one.kind != "limit"
    }
    return {"limits": limits, "budgets": budgets}


def _table(standings: list[Standing]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("limit")
    for column in ("requests", "tokens", "running", "waiting", "state"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for one in standings:
        table.add_row(*(_limit_row(one) if one.kind == "limit" else _budget_row(one)))
    return table


def _limit_row(standing: Standing) -> list[str]:
    found = standing.fields
    used = [
        _of(found["requests_used"], found.get("requests")),
        _of(found["tokens_used"], found.get("tokens")),
        _of(found["running"], found.get("concurrency")),
    ]
    return [standing.name, *used, f"{found['waiting']:,}", _state(standing)]


def _budget_row(standing: Standing) -> list[str]:
    spent, reserved, allowed = (standing.fields[name] / _NANO for name in ("spent", "reserved", "allowed"))
    whose = f"budget of {standing.name}" if standing.kind == "tenant" else "budget of all"
    state = f"{spent:.4f} USD spent, {reserved:.4f} set aside, of {allowed:.4f} today (UTC)"
    return [whose, "", "", "", "", state]


def _state(standing: Standing) -> str:
    found = standing.fields
    if found["paused_ms"] > 0:
        return f"paused by the provider for {found['paused_ms'] / 1000:.1f} s"
    if found["open_ms"] > 0:
        return f"closed for {found['open_ms'] / 1000:.1f} s after {found['failures']} failures"
    return "half open: one call tries" if found["is_open"] else "open"


def _of(used: int, allowed: int | None) -> str:
    return f"{used:,}" if allowed is None else f"{used:,} of {allowed:,}"
