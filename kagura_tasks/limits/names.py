"""What limits are called in Redis. All of them are on the broker's, where all workers meet."""

from __future__ import annotations

from typing import Final

#: The keys of all limits and budgets that were used in the last day (sorted set by time).
INDEX: Final = "kagura:limits"

#: Where a waiter is told to look again; its ticket stands behind it.
TURNS: Final = "kagura:turn:"

_LIMIT: Final = "kagura:limit:"
_BUDGET: Final = "kagura:budget:"
_ALL: Final = "kagura:budget-of-all"


def limit_key(pattern: str) -> str:
    """The hash of a limit: its cooldowns, and the virtual times of its line.

    Behind it, after a colon, are: `window` (hash: calls `r` and tokens `t` in the window, and of each slice), `slices`
    (sorted set: the slices with any), `leases` (sorted set: calls that run, by the end of their lease), `running` (the
    same by their start), `held` (hash: what each was counted with), `line` (sorted set: waiters by their place), `here`
    (those of them that are in a worker), `times` (sorted set: what happens to waiters when), `needs` (hash: their
    tokens) and `ends:<class>` (sorted set: tenants by the virtual time at which their last call ends).
    """
    return _LIMIT + pattern


def budget_key(tenant: str | None) -> str:
    """A tenant's budget, or that of all together. Behind it, after a colon, is the day, in days since 1970 (UTC).

    A hash: `spent`, `reserved` and `allowed` in billionths of a USD; with `held` and `leases` behind it as above.
    """
    return _ALL if tenant is None else _BUDGET + tenant


def name_of(key: str) -> tuple[str, str]:
    """What a key of the index is of: ("limit", its pattern), ("tenant", its name) or ("all", "")."""
    if key.startswith(_LIMIT):
        return "limit", key.removeprefix(_LIMIT)
    if key.startswith(_BUDGET):
        return "tenant", key.removeprefix(_BUDGET).rpartition(":")[0]
    return "all", ""
