"""Limits, cooldowns and budgets, as the page shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from kagura_tasks.cli.dashboard.charts import short
from kagura_tasks.limits.store import Standing

#: Budgets are counted in billionths of a USD.
_NANO: Final = 1e9

_WHOSE: Final = {"limit": "limit", "tenant": "budget of the tenant", "all": "budget of all"}


@dataclass(frozen=True)
class LimitRow:
    """A limit or a budget: whose it is, what of it is used, how many calls wait, and why none is made at the moment."""

    name: str
    kind: str
    used: str
    waiting: int
    cooldown: str


def rows_of(standings: Iterable[Standing]) -> list[LimitRow]:
    """The rows, by name."""
    rows = [_row(standing) for standing in standings]
    return sorted(rows, key=lambda row: (row.kind, row.name))


def _row(standing: Standing) -> LimitRow:
    fields, kind = standing.fields, _WHOSE.get(standing.kind, standing.kind)
    if "allowed" in fields:
        spent, allowed = (fields["spent"] + fields["reserved"]) / _NANO, fields["allowed"] / _NANO
        return LimitRow(standing.name, kind, f"${spent:,.4f} of ${allowed:,.2f} today", 0, "")
    return LimitRow(standing.name, kind, _used(fields), int(fields.get("waiting", 0)), _cooldown(fields))


def _used(fields: dict[str, Any]) -> str:
    window = short(fields["window_ms"] / 1000, "s")
    parts = [
        f"{short(fields[used])} of {short(fields[name])} {what}"
        for name, used, what in (
            ("requests", "requests_used", f"calls in {window}"),
            ("tokens", "tokens_used", f"tokens in {window}"),
            ("concurrency", "running", "at once"),
        )
        if fields.get(name)
    ]
    return ", ".join(parts)


def _cooldown(fields: dict[str, Any]) -> str:
    if fields.get("paused_ms"):
        return f"the provider wants none for {short(fields['paused_ms'] / 1000, 's')}"
    if fields.get("open_ms"):
        return f"failing: none for {short(fields['open_ms'] / 1000, 's')}"
    return "one call to see whether it is well" if fields.get("is_open") else ""
