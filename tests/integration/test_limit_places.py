"""Places under limits, as a worker takes them: many calls of one event loop, on a real Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from kagura_tasks import Completion, CompletionRequest, Message, Settings
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import BudgetExceeded, PriceUnknown
from kagura_tasks.schemas import Usage
from kagura_tasks.settings import RedisUrl
from kagura_tasks.worker.job import Job
from kagura_tasks.worker.limits import Estimate, Limits, NotYet, limits_of
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Worker, WorkerOptions


def request_of(settings: Settings, model: str = "openai/m") -> CompletionRequest:
    return CompletionRequest(model=model, messages=(Message(role="user", content="?"),), tenant=settings.tenant)


def answer_of(request: CompletionRequest, cost_usd: float | None) -> Completion:
    return Completion(text="!", model=request.model, finish_reason="stop", usage=Usage(cost_usd=cost_usd))


async def one_cent(_: CompletionRequest) -> Estimate:
    return Estimate(100, 0.01, 0.01)


async def nobody_knows(_: CompletionRequest) -> Estimate:
    return Estimate(100, None, None)


async def called(
    limits: Limits, request: CompletionRequest, number: int, cost_usd: float | None = 0.01, *, may_leave: bool = True
) -> int:
    """Make a call that takes a moment; its number."""
    job = Job(request, f"task-{number}", may_leave=may_leave)
    async with limits.place(job, request, has_elsewhere=False) as place:
        await asyncio.sleep(0.05)
        place.used(answer_of(request, cost_usd))
    return number


@pytest.mark.parametrize("whose", ["tenant", "all"])
async def test_a_hundred_calls_at_once_spend_no_more_than_there_is(settings: Settings, whose: str):
    """Of 0.01 USD each, with 0.20 USD: exactly twenty are made, and eighty are refused before they are."""
    budget = (
        {"tenant_budgets_usd_per_day": {settings.tenant: 0.20}} if whose == "tenant" else {"budget_usd_per_day": 0.2}
    )
    limits = limits_of(settings.override(**budget), one_cent)
    request = request_of(settings)
    found = await asyncio.gather(*(called(limits, request, at) for at in range(100)), return_exceptions=True)
    refused = [one for one in found if isinstance(one, BudgetExceeded)]
    assert (len(found) - len(refused), len(refused)) == (20, 80)
    assert {(one.budget_usd, round(one.spent_usd, 9)) for one in refused} == {(0.2, 0.2)}


async def test_a_tenants_budget_is_its_own(settings: Settings):
    """One that is not named has that of all others, each for itself; without such a line it has none."""
    limits = limits_of(settings.override(tenant_budgets_usd_per_day={"*": 0.01}), one_cent)
    for tenant in ("a", "b"):
        request = request_of(settings.override(tenant=tenant))
        await called(limits, request, 1)
        with pytest.raises(BudgetExceeded, match=f"tenant {tenant}"):
            await called(limits, request, 2)


async def test_a_call_of_unknown_price_needs_leave(settings: Settings):
    """Under a budget. With leave it is made, and counts nothing."""
    budget = settings.override(budget_usd_per_day=0.01)
    with pytest.raises(PriceUnknown):
        await called(limits_of(budget, nobody_knows), request_of(settings), 1)
    allowed = limits_of(budget.override(allow_unknown_prices=True), nobody_knows)
    assert [await called(allowed, request_of(settings), number, None) for number in range(3)] == [0, 1, 2]


async def test_who_waits_is_told_of_a_free_place(settings: Settings):
    """Calls of one place follow one another without a pause, each in turn."""
    limits = limits_of(settings.override(limits={"openai/*": {"concurrency": 1}}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    calls = [called(limits, request_of(settings), number, may_leave=False) for number in range(8)]
    assert await asyncio.gather(*calls) == [*range(8)]
    assert loop.time() - began < 8 * 0.05 + 0.6


async def test_a_long_wait_is_not_sat_out(settings: Settings):
    """The task comes back; one that may not leave stays until there is room."""
    limits = limits_of(settings.override(limits={"openai/*": {"requests_per_min": 60, "window_s": 2}}))
    request = request_of(settings)
    for number in range(2):
        await called(limits, request, number)
    with pytest.raises(NotYet) as later:
        await called(limits, request, 2)
    assert 0.5 <= later.value.wait_s < 2.5
    job = Job(request, "part", may_leave=False)
    async with limits.place(job, request, has_elsewhere=False):
        pass


async def test_a_waiter_that_is_cancelled_leaves_the_line(settings: Settings, client_of_redis: redis.Redis):
    """Nobody waits for it."""
    limits = limits_of(settings.override(limits={"openai/*": {"concurrency": 1}}))
    request = request_of(settings)
    async with limits.place(Job(request, "first"), request, has_elsewhere=False):
        waiter = asyncio.create_task(called(limits, request, 1))
        await asyncio.to_thread(until, lambda: client_of_redis.exists("kagura:limit:openai/*:line"), 5.0, "a waiter")
        waiter.cancel()
        await asyncio.wait([waiter])
        assert not client_of_redis.exists("kagura:limit:openai/*:line")


async def test_a_long_call_keeps_its_place(settings: Settings):
    """Its lease is renewed for as long as it runs."""
    limited = settings.override(limits={"openai/*": {"concurrency": 1}}, flight_lease_s=1.0)
    limits, request = limits_of(limited), request_of(settings)
    async with limits.place(Job(request, "first"), request, has_elsewhere=False):
        await asyncio.sleep(1.5)
        with pytest.raises(NotYet):
            await called(limits, request, 1)


async def test_what_no_limit_names_costs_no_round_trip():
    """Neither without any limit, nor with one for others."""
    with EmbeddedRedis() as server:  # where no worker runs a script meanwhile
        settings = Settings(redis_url=server.url)
        for limits in ({}, {"anthropic/*": {"concurrency": 1}}):
            await called(limits_of(settings.override(limits=limits)), request_of(settings), 1)
        assert "cmdstat_evalsha" not in sync_client(server.url, 2.0).info("commandstats")


def test_a_limit_for_no_model_keeps_a_worker_from_starting(redis_url: RedisUrl, stub: StubServer, tmp_path: Path):
    """Its last words name the setting and the key."""
    environment = {"KAGURA_TASKS_LIMITS": '{"opnai/*": {"concurrency": 1}}'}
    worker = Worker(redis_url, stub.base_url, tmp_path, WorkerOptions(environment=environment))
    try:
        until(lambda: not worker.is_running, 60, "an end")
        assert 'KAGURA_TASKS_LIMITS: "opnai/*" fits no model' in worker.log
        assert "Traceback" not in worker.log
    finally:
        worker.kill9()
