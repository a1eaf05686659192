"""A call's place under the limits of the fleet: taken before it, given back after it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final, NamedTuple, Protocol

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.errors import (
    BudgetExceeded,
    PermanentError,
    PriceUnknown,
    ProviderTimeout,
    RateLimited,
    TransientError,
)
from kagura_tasks.limits.names import TURNS
from kagura_tasks.limits.store import Ask, Away, Breaker, Broke, Budget, Closed, Ended, Limit, LimitStore, Stay, Verdict
from kagura_tasks.limits.terms import EVERY_OTHER, patterns_for
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings
from kagura_tasks.subscriptions import subscriptions
from kagura_tasks.worker.exchange_records import patiently
from kagura_tasks.worker.job import Job
from kagura_tasks.worker.renewals import Renewed

log = logging.getLogger(__name__)

#: A wait up to this long is sat out in the event loop (s). For a longer one the task goes back to the queue.
_SHORT_WAIT_S: Final = 1.0

#: The part of a lease after which it is renewed: two renewals may fail before it ends.
_RENEWALS_A_LEASE: Final = 3

#: Tokens that are set aside for an answer whose length the request does not bound.
_ANSWER_TOKENS: Final = 1000


class NotYet(Exception):
    """It is not the call's turn, and will not be soon: its task comes back then."""

    def __init__(self, wait_s: float) -> None:
        """Take the seconds to wait."""
        super().__init__(wait_s)
        self.wait_s = wait_s


class ClosedNow(Exception):
    """The provider asked for a pause, or fails: a call that has somewhere else to go does not wait for it."""


class Place:
    """What a call takes up, from before it until after it."""

    def used(self, completion: Completion) -> None:
        """The call was answered."""


class Limits(Protocol):
    """Sees to it that the fleet keeps its limits."""

    def place(self, job: Job, request: CompletionRequest, *, has_elsewhere: bool) -> AbstractAsyncContextManager[Place]:
        """The place of a call: waited for before the block, and given back after it.

        Args:
            job: Who waits. Where it may leave, it does not wait for long.
            request: What is to be called.
            has_elsewhere: Another model can be asked: where this one is closed, nobody waits.

        Raises:
            NotYet: The wait is long.
            ClosedNow: The provider is closed, and there is somewhere else to go.
            BudgetExceeded: A budget has no room for it.
            PriceUnknown: A budget cannot be kept.
            HandedBack: Redis stays away, or full.
        """
        ...


class NoLimits:
    """Anybody may call at any time. It costs nothing."""

    _PLACE: Final = nullcontext(Place())

    def place(self, job: Job, request: CompletionRequest, *, has_elsewhere: bool) -> AbstractAsyncContextManager[Place]:
        """See Limits."""
        return self._PLACE


class Estimate(NamedTuple):
    """What a call may use, before it is made.

    Attributes:
        tokens: Of its prompt and its answer.
        low_usd: Its price where the answer is empty; None where nobody knows.
        high_usd: Its price where the answer is as long as it may be; None where nobody knows.
    """

    tokens: int = 0
    low_usd: float | None = 0.0
    high_usd: float | None = 0.0


Estimator = Callable[[CompletionRequest], Awaitable[Estimate]]


async def estimated(request: CompletionRequest) -> Estimate:
    """By LiteLLM's tokenizers and price map; in a thread: a long prompt takes a while."""
    # With LiteLLM, which is there where calls are made, and nowhere else.
    from kagura_tasks.providers.estimate import answer_limit, estimate

    (found,) = await asyncio.to_thread(estimate, [request])
    answer_tokens = answer_limit(request) or _ANSWER_TOKENS
    return Estimate(found.prompt_tokens + answer_tokens, found.low_usd, found.high_usd)


def limits_of(settings: Settings, estimate: Estimator = estimated) -> Limits:
    """The limits that the settings describe."""
    has_any = settings.limits or settings.budget_usd_per_day or settings.tenant_budgets_usd_per_day
    return RedisLimits(settings, estimate) if has_any else NoLimits()


class RedisLimits:
    """Limits in the Redis of the queues, where all workers meet."""

    def __init__(self, settings: Settings, estimate: Estimator) -> None:
        """Take the settings, and who knows what a call may use."""
        self._settings = settings
        self._estimate = estimate
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_open_s)
        self._patterns = cache(partial(patterns_for, settings.limits))
        self._settling: set[asyncio.Task[None]] = set()

    def place(self, job: Job, request: CompletionRequest, *, has_elsewhere: bool) -> AbstractAsyncContextManager[Place]:
        """See Limits. A call that no limit names costs no round trip."""
        patterns, caps = self._patterns(request.model), self._caps(request.tenant)
        if not patterns and not caps:
            return NoLimits().place(job, request, has_elsewhere=has_elsewhere)
        return self._place(job, request, patterns, caps, has_elsewhere)

    def _caps(self, tenant: str) -> list[tuple[str | None, float]]:
        """The day's budgets that pay for this tenant's calls."""
        of_tenants = self._settings.tenant_budgets_usd_per_day
        caps = [
            (tenant, of_tenants.get(tenant, of_tenants.get(EVERY_OTHER))),
            (None, self._settings.budget_usd_per_day),
        ]
        return [(whose, usd) for whose, usd in caps if usd is not None]

    @asynccontextmanager
    async def _place(
        self,
        job: Job,
        request: CompletionRequest,
        patterns: list[str],
        caps: list[tuple[str | None, float]],
        has_elsewhere: bool,
    ) -> AsyncGenerator[Place]:
        terms = [(pattern, self._settings.limits[pattern]) for pattern in patterns]
        needs_estimate = bool(caps) or any(one.tokens for _, one in terms)
        estimate = await self._estimate(request) if needs_estimate else Estimate()
        usd = self._set_aside(request, estimate) if caps else 0.0
        ask = Ask(
            id=f"{random.getrandbits(64):016x}",
            ticket=job.task_id,
            tenant=request.tenant,
            weight=self._settings.tenant_weights.get(request.tenant, 1.0),
            priority=int(request.priority),
            limits=[Limit(pattern, one, estimate.tokens) for pattern, one in terms],
            budgets=[Budget(whose, allowed, usd) for whose, allowed in caps],
            lease_s=self._settings.flight_lease_s,
        )
        await self._enter(ask, job.may_leave, has_elsewhere)
        place = _Taken(usd, estimate.low_usd or 0.0)
        try:
            with Renewed(partial(self._renew, ask), ask.lease_s / _RENEWALS_A_LEASE):
                yield place
        except (TransientError, PermanentError) as error:
            place.failed(error)
            raise
        finally:
            await self._settle(ask, place.ended)

    def _set_aside(self, request: CompletionRequest, estimate: Estimate) -> float:
        """The most that the call may cost (USD)."""
        if estimate.high_usd is not None:
            return estimate.high_usd
        if self._settings.allow_unknown_prices:
            return 0.0
        problem = "LiteLLM's price map does not say what a call may cost, and the day has a budget"
        raise PriceUnknown(problem, request.model)

    async def _enter(self, ask: Ask, may_leave: bool, has_elsewhere: bool) -> None:
        waits_until = asyncio.get_running_loop().time() + _SHORT_WAIT_S

        async def look() -> Verdict:
            stay_s = max(0.0, waits_until - asyncio.get_running_loop().time())
            reserve = partial(self._store.reserve, ask, stay_s=stay_s, may_leave=may_leave, has_elsewhere=has_elsewhere)
            return await patiently(reserve)

        try:
            verdict = await look()
            if isinstance(verdict, Stay):
                verdict = await self._waited(ask, verdict, look)
        except BaseException:
            with suppress(*CANNOT_WRITE_NOW):
                await self._store.leave(ask)
            raise
        match verdict:
            case Away(back_s):
                raise NotYet(back_s)
            case Closed():
                raise ClosedNow
            case Broke(budget, spent_usd, reserved_usd):
                whose = "all tenants" if budget.tenant is None else f"tenant {budget.tenant}"
                raise BudgetExceeded(whose, budget.allowed_usd, spent_usd + reserved_usd)
            case _:
                pass

    async def _waited(self, ask: Ask, verdict: Verdict, look: Callable[[], Awaitable[Verdict]]) -> Verdict:
        """What is said after a short wait. A place that others give back is announced."""
        hub = subscriptions(self._settings.broker, self._settings.redis_timeout_s)
        with hub.listen(TURNS + ask.ticket) as turn:
            while isinstance(verdict, Stay):
                with suppress(TimeoutError):
                    await turn.next(verdict.look_s)
                verdict = await look()
        return verdict

    async def _renew(self, ask: Ask) -> bool:
        with suppress(*CANNOT_WRITE_NOW):
            await self._store.renew(ask)
        return True

    async def _settle(self, ask: Ask, ended: Ended) -> None:
        """Where Redis is away, money is counted when it is back; all else comes back when the lease ends."""
        try:
            await self._store.settle(ask, ended)
        except CANNOT_WRITE_NOW as error:
            log.warning("a call's end could not be counted under its limits (%s)", type(error).__name__)
            if ask.budgets:
                later = asyncio.create_task(patiently(lambda: self._store.settle(ask, ended)), name="kagura-settling")
                self._settling.add(later)
                later.add_done_callback(self._settling.discard)

    @property
    def _store(self) -> LimitStore:
        return LimitStore(async_client(self._settings.broker, self._settings.redis_timeout_s), self._breaker)


@dataclass
class _Taken(Place):
    """A place that was taken, with the money that is set aside, and what the prompt alone costs (USD)."""

    set_aside_usd: float
    prompt_usd: float
    ended: Ended = field(init=False)

    def __post_init__(self) -> None:
        # A call that was ended has been read by the provider.
        self.ended = Ended("left", usd=self.prompt_usd)

    def used(self, completion: Completion) -> None:
        """See Place. What nobody knows counts as it was set aside."""
        usage = completion.usage
        usd = self.set_aside_usd if usage.cost_usd is None else usage.cost_usd
        self.ended = Ended("answered", usage.total_tokens or None, usd)

    def failed(self, error: TransientError | PermanentError) -> None:
        """The call was not answered: it cost nothing."""
        match error:
            case RateLimited():
                self.ended = Ended("limited", 0, pause_s=error.retry_after_s)
            case ProviderTimeout():
                self.ended = Ended("failed", pause_s=error.retry_after_s)
            case TransientError():
                self.ended = Ended("failed", 0, pause_s=error.retry_after_s)
            case _:
                self.ended = Ended("answered", 0)
