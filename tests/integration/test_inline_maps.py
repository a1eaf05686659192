"""Maps in this process keep the promises of those that workers work on, for as long as the process lives."""

from __future__ import annotations

import asyncio

import pytest

from kagura_tasks import LLMClient
from kagura_tasks.errors import BudgetExceeded, MapExpired, MapFailed, RequestRefused, TaskCancelled
from kagura_tasks.groups import Answer, MapItem
from tests.support.lanes import MARKS
from tests.support.llm import StubServer
from tests.support.map_scene import texts
from tests.support.wait import until

pytestmark = MARKS


def test_answers_are_in_order_and_errors_in_their_place(inline_client: LLMClient, stub: StubServer):
    """Equal items cost one call; names come back; progress adds up."""
    stub.script(when="bad", status=400, body="{}")
    group = inline_client.map([MapItem("one", "a"), "bad two", "three", "three"], max_in_flight=2)
    assert texts(group.get(timeout_s=90)) == ["one", "RequestRefused", "three", "three"]
    assert [one.custom_id for one in group.in_order()] == ["a", "", "", ""]
    assert sorted(one.index for one in group) == [0, 1, 2, 3]
    progress = group.progress()
    assert (progress.state, progress.done, progress.failed, progress.cached) == ("done", 3, 1, 1)
    assert stub.count() == 3


def test_no_more_than_the_window_is_in_flight(inline_client: LLMClient, stub: StubServer):
    """At any moment, by the provider's ledger; and async code waits as well."""
    stub.script(echoes=True, delay_s=0.02)
    answers = asyncio.run(_answers_of(inline_client, [f"item {number}" for number in range(30)]))
    assert texts(answers) == [f"item {number}" for number in range(30)]
    assert stub.peak() <= 4


async def _answers_of(inline_client: LLMClient, prompts: list[str]) -> list[Answer]:
    return await (await inline_client.amap(prompts, max_in_flight=4))


def test_failures_stop_it_and_it_goes_on(inline_client: LLMClient, stub: StubServer):
    """`on_error="fail"`; what failed is tried again where that is asked for."""
    stub.script(when="bad", status=400, body="{}", times=1)
    group = inline_client.map(["bad one", "two", "three"], max_in_flight=1, on_error="fail")
    with pytest.raises(MapFailed):
        group.get(timeout_s=90)
    assert texts(inline_client.resume_map(group.id, retry_failed=True).get(timeout_s=60)) == ["bad one", "two", "three"]
    assert stub.count() == 4


def test_pausing_and_cancelling(inline_client: LLMClient, stub: StubServer):
    """A paused map ends what runs; a cancelled one closes it. Both go on."""
    stub.script(when="held", echoes=True, held=True)
    group = inline_client.map(["held one", "two"], max_in_flight=1)
    until(lambda: stub.count() == 1, what="a call")
    group.pause()
    stub.release()
    until(lambda: group.progress().done == 1, what="the end of what ran")
    assert (group.status(), stub.count()) == ("paused", 1)
    stub.script(when="two", delay_s=60)
    inline_client.resume_map(group.id)
    until(lambda: stub.count() == 2, what="a further call")
    group.cancel()
    with pytest.raises(TaskCancelled):
        group.get(timeout_s=60)
    stub.reset()
    stub.script(echoes=True)
    assert texts(inline_client.resume_map(group.id).get(timeout_s=60)) == ["held one", "two"]


def test_a_budget_is_kept(inline_client: LLMClient, stub: StubServer):
    """With no room for a call none is made."""
    group = inline_client.map(["one", "two"], budget_usd=1e-9, max_tokens=20)
    with pytest.raises(BudgetExceeded):
        group.get(timeout_s=90)
    assert stub.count() == 0
    assert texts(inline_client.resume_map(group.id, budget_usd=1.0).get(timeout_s=60)) == ["one", "two"]


def test_answers_become_one(inline_client: LLMClient, stub: StubServer):
    """`map_reduce`, with what failed."""
    stub.script(when="About bad", status=400, body="{}")
    result = inline_client.map_reduce(
        ["tea", "bad"], map="About {{ item }}.", reduce="{{ failed | length }}: {{ parts | join }}"
    )
    assert result.get(timeout_s=90).text == "1: About tea."
    assert texts(result.parts.get()) == ["About tea.", "RequestRefused"]


def test_a_map_is_found_as_long_as_somebody_has_it(inline_client: LLMClient):
    """Its name is enough while its handle lives; an unknown name is none."""
    group = inline_client.map(["one"], id="mine")
    assert texts(inline_client.group("mine").get(timeout_s=90)) == ["one"]
    assert texts(inline_client.map(["never read"], id="mine").get()) == ["one"]
    assert group.about() == {}
    with pytest.raises(MapExpired):
        inline_client.group("another")


def test_refused_items_are_errors_of_their_own_kind(inline_client: LLMClient, stub: StubServer):
    """An outcome gives its completion, or raises its error."""
    stub.script(status=400, body="{}")
    (outcome,) = inline_client.map(["one"]).in_order()
    with pytest.raises(RequestRefused):
        outcome.get()
