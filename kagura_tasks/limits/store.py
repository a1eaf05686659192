"""The steps that keep limits, each atomic and one round trip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from kagura_tasks.limits.names import INDEX, TURNS, budget_key, limit_key, name_of
from kagura_tasks.limits.terms import LimitTerms
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import AsyncRedis

_HERE: Final = __package__ or ""
_RESERVE: Final = LuaScript.load(_HERE, "limits.lua", "reserve.lua")
_SETTLE: Final = LuaScript.load(_HERE, "limits.lua", "settle.lua")
_RENEW: Final = LuaScript.load(_HERE, "limits.lua", "renew.lua")
_LEAVE: Final = LuaScript.load(_HERE, "limits.lua", "leave.lua")
_STATUS: Final = LuaScript.load(_HERE, "limits.lua", "status.lua")

#: Amounts of money are whole billionths of a USD: sums of them are exact.
_NANO: Final = 1_000_000_000


class Limit(NamedTuple):
    """A limit that a call counts for, and the tokens that it may use."""

    pattern: str
    terms: LimitTerms
    tokens: int = 0

    def fields(self) -> dict[str, Any]:
        """As the scripts read it: what is not limited is left out."""
        terms = self.terms
        allowed = {"requests": terms.requests, "tokens": terms.tokens, "concurrency": terms.concurrency}
        # One call alone may need more than a whole window has: it gets one of its own.
        need = min(self.tokens, terms.tokens) if terms.tokens else 0
        known = {name: number for name, number in allowed.items() if number is not None}
        return {**known, "window_ms": int(terms.window_s * 1000), "need": need}


class Budget(NamedTuple):
    """A day's budget that pays for a call, a tenant's or that of all (None), and what it may cost at most (USD)."""

    tenant: str | None
    allowed_usd: float
    usd: float = 0.0

    def fields(self) -> dict[str, Any]:
        """As the scripts read it."""
        return {"allowed": _nano(self.allowed_usd), "need": _nano(self.usd)}


@dataclass(frozen=True)
class Breaker:
    """After so many failures in a row nothing is called for so long (s), and then one call alone."""

    failures: int = 5
    open_s: float = 30.0


@dataclass(frozen=True)
class Ask:
    """A call that wants to be made.

    Attributes:
        id: The reservation; each has its own.
        ticket: The place in line: the same at each try, and in each delivery of the task.
        tenant: Whose call it is.
        weight: The tenant's share of what several want.
        priority: The smallest is first.
        limits: What it counts for, the most specific first.
        budgets: What it is paid from.
        lease_s: After it, a reservation whose worker died is forgotten.
    """

    id: str
    ticket: str
    tenant: str
    weight: float
    priority: int
    limits: Sequence[Limit]
    budgets: Sequence[Budget]
    lease_s: float

    @property
    def keys(self) -> list[str]:
        """What Redis calls its limits, and then its budgets."""
        limits = [limit_key(limit.pattern) for limit in self.limits]
        return [*limits, *(budget_key(budget.tenant) for budget in self.budgets)]


class Entered(NamedTuple):
    """The call may be made now."""


class Stay(NamedTuple):
    """It is soon its turn: look again then (s)."""

    look_s: float


class Away(NamedTuple):
    """Its turn is later: the task may go, and come back then (s)."""

    back_s: float


class Closed(NamedTuple):
    """The provider is closed for so long (s)."""

    for_s: float


class Broke(NamedTuple):
    """This budget has no room for it: what is spent, and set aside for calls that run (USD)."""

    budget: Budget
    spent_usd: float
    reserved_usd: float


Verdict = Entered | Stay | Away | Closed | Broke


class Ended(NamedTuple):
    """How a call ended.

    Attributes:
        outcome: "answered" (whatever the answer), "failed" (the provider did), "limited" (it takes no more), or "left".
        tokens: What it used; None where nobody knows: then what was set aside counts.
        usd: What it cost.
        pause_s: For so long the provider wants no more calls.
    """

    outcome: str
    tokens: int | None = None
    usd: float = 0.0
    pause_s: float = 0.0


class Standing(NamedTuple):
    """How a limit or a budget stands: kind ("limit", "tenant", "all"), name, and fields by the names in status.lua."""

    kind: str
    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class LimitStore:
    """Limits in Redis. Every method raises redis-py's errors where it is away, or full."""

    client: AsyncRedis
    breaker: Breaker = Breaker()

    async def reserve(
        self, ask: Ask, *, stay_s: float, may_leave: bool, has_elsewhere: bool = False, now_ms: float | None = None
    ) -> Verdict:
        """Take the call's place, or stand in line for it.

        Args:
            ask: The call.
            stay_s: So long it can wait where it is.
            may_leave: For longer, the task goes away and comes back; otherwise it stays.
            has_elsewhere: Where the provider is closed, it does not wait.
            now_ms: For tests: another time than that of Redis.
        """
        document: dict[str, Any] = {
            "id": ask.id,
            "ticket": ask.ticket,
            "tenant": ask.tenant,
            "weight": ask.weight,
            "class": ask.priority,
            "limits": [limit.fields() for limit in ask.limits],
            "budgets": [budget.fields() for budget in ask.budgets],
            "lease_ms": int(ask.lease_s * 1000),
            "stay_ms": int(stay_s * 1000),
            "may_leave": may_leave,
            "has_elsewhere": has_elsewhere,
            "breaker_failures": self.breaker.failures,
            "index": INDEX,
        }
        if now_ms is not None:
            document["now"] = now_ms
        reply = cast("list[Any]", await _RESERVE.arun(self.client, ask.keys, [json.dumps(document)]))
        return _verdict(ask, reply)

    async def settle(self, ask: Ask, ended: Ended, now_ms: float | None = None) -> None:
        """Give the call's place back, and count what it really used."""
        document: dict[str, Any] = {
            "id": ask.id,
            "ticket": ask.ticket,
            "outcome": ended.outcome,
            "spent": _nano(ended.usd),
            "limits": [limit.fields() for limit in ask.limits],
            "pause_ms": int(ended.pause_s * 1000),
            "breaker_failures": self.breaker.failures,
            "breaker_open_ms": int(self.breaker.open_s * 1000),
            "channel": TURNS,
        }
        known = {"tokens": ended.tokens, "now": now_ms}
        document |= {name: value for name, value in known.items() if value is not None}
        await _SETTLE.arun(self.client, ask.keys, [json.dumps(document)])

    async def renew(self, ask: Ask) -> None:
        """Keep the place of a call that runs for longer than its lease."""
        await _RENEW.arun(self.client, ask.keys, [ask.id, int(ask.lease_s * 1000), len(ask.limits)])

    async def leave(self, ask: Ask) -> None:
        """Stand in line no more."""
        await _LEAVE.arun(self.client, ask.keys[: len(ask.limits)], [ask.ticket])

    async def standings(self) -> list[Standing]:
        """All limits that were used in the last day, and today's budgets."""
        found = cast("list[bytes]", await _STATUS.arun(self.client, [INDEX], []))
        pairs = zip(found[::2], found[1::2], strict=True)
        return [Standing(*name_of(key.decode()), json.loads(fields)) for key, fields in pairs]


def _verdict(ask: Ask, reply: list[Any]) -> Verdict:
    match reply:
        case [b"in"]:
            return Entered()
        case [b"stay", int(ms)]:
            return Stay(ms / 1000)
        case [b"away", int(ms)]:
            return Away(ms / 1000)
        case [b"closed", int(ms)]:
            return Closed(ms / 1000)
        case [b"broke", int(number), bytes(spent), bytes(reserved)]:
            return Broke(ask.budgets[number - 1], float(spent) / _NANO, float(reserved) / _NANO)
        case _:
            raise RuntimeError("reserve.lua answered what it does not document")


def _nano(usd: float) -> int:
    return round(usd * _NANO)
