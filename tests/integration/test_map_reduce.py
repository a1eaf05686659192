"""Many answers made into one: the reduction runs once, with what succeeded and what failed."""

from __future__ import annotations

import pytest

from kagura_tasks.errors import BudgetExceeded, ItemInvalid, MapFailed, NothingToReduce, PromptError, TaskCancelled
from tests.support.map_scene import MapScene

TOGETHER = "Together, {{ count }}, {{ failed | length }} of which failed:{% for one in parts %} <{{ one }}>{% endfor %}"


def test_all_answers_become_one(maps: MapScene):
    """In the order of the items, by one call more than there are items; the parts are still there."""
    result = maps.client.map_reduce(["tea", "rice", "salt"], map="About {{ item }}.", reduce=TOGETHER)
    text = "Together, 3, 0 of which failed: <About tea.> <About rice.> <About salt.>"
    assert result.get(timeout_s=60).text == text
    assert list(maps.calls().values()) == [1] * 4
    assert result.id == f"{maps.settings.tenant}:{result.parts.id}.reduce"
    assert len(result.parts.get()) == 3


def test_it_runs_once_with_what_succeeded_and_what_failed(maps: MapScene):
    """A failed item keeps nobody from the result, and its error's type is told."""
    maps.stub.script(when="About bad", status=400, body="{}")
    items = [{"what": "tea"}, {"what": "bad"}, {"what": "salt"}]
    reduce = "{{ failed[0].type }} {{ parts | join(' ') }}"
    result = maps.client.map_reduce(items, map="About {{ what }}.", reduce=reduce, max_in_flight=1)
    assert result.get(timeout_s=60).text == "RequestRefused About tea. About salt."
    assert maps.calls()["RequestRefused About tea. About salt."] == 1


def test_nobody_has_to_wait_for_it(maps: MapScene):
    """The step that ends the last item sends the reduction: whoever looks later finds the answer."""
    maps.stub.script(when="held", echoes=True, held=True)
    result = maps.client.map_reduce(["a", "held"], map="About {{ item }}.", reduce="All: {{ parts | join(' ') }}")
    maps.until_called(2)
    maps.stub.release()
    maps.until_called(3)
    assert maps.client.result(result.id).get(timeout_s=60).text == "All: About a. About held."


def test_a_function_may_make_the_prompts_and_another_model_the_reduction(maps: MapScene):
    """`map` takes what makes a prompt of an item, `reduce_options` what is different for the last call."""
    result = maps.client.map_reduce(
        [1, 2],
        map=lambda number: [{"role": "system", "content": "Count."}, {"role": "user", "content": f"From {number}."}],
        reduce="Add {{ parts | join(' ') }}",
        reduce_options={"model": "openai/gpt-4o", "temperature": 0.1},
    )
    assert result.get(timeout_s=60).model == "openai/gpt-4o"
    bodies = {one["body"]["messages"][-1]["content"]: one["body"] for one in maps.stub.ledger()["requests"]}
    assert bodies["From 1."]["messages"][0] == {"role": "system", "content": "Count."}
    assert (bodies["Add From 1. From 2."]["model"], bodies["Add From 1. From 2."]["temperature"]) == ("gpt-4o", 0.1)


def test_too_much_for_the_model_is_reduced_in_groups(maps: MapScene):
    """Until one prompt is left; every part is in one of the prompts, and none is told twice."""
    maps.stub.script(when="Together", text="A part of it.")
    items = [f"item number {number} " + "with words " * 20 for number in range(24)]
    result = maps.client.map_reduce(
        items, map="{{ item }}", reduce=TOGETHER, context_tokens=1200, reduce_options={"max_tokens": 100}
    )
    assert result.get(timeout_s=60).text == "A part of it."
    prompts = [prompt for prompt in maps.calls() if prompt.startswith("Together")]
    told = [number for prompt in prompts for number in range(24) if f"<item number {number} " in prompt]
    assert len(prompts) > 2
    assert sorted(told) == list(range(24))


def test_where_all_failed_there_is_nothing_to_reduce(maps: MapScene):
    """The reduction fails with a typed error, and calls nobody."""
    maps.stub.script(when="About", status=400, body="{}")
    result = maps.client.map_reduce(["a", "b"], map="About {{ item }}.", reduce=TOGETHER)
    with pytest.raises(NothingToReduce):
        result.get(timeout_s=60)
    assert maps.stub.count() == 2


def test_a_map_that_failures_stop_fails_its_reduction(maps: MapScene):
    """With what stopped it; nothing is left that waits for ever."""
    maps.stub.script(when="bad", status=400, body="{}")
    result = maps.client.map_reduce(
        maps.prompts(10, bad=[0]), map="{{ item }}", reduce=TOGETHER, on_error="fail", max_in_flight=1
    )
    with pytest.raises(MapFailed):
        result.get(timeout_s=60)


def test_a_map_without_money_is_not_reduced(maps: MapScene):
    """Whoever waits is told; with more money it goes on to the end."""
    items = maps.prompts(4)
    result = maps.client.map_reduce(
        items, map="{{ item }}", reduce="All: {{ parts | join(' ') }}", budget_usd=1e-9, max_tokens=20
    )
    with pytest.raises(BudgetExceeded):
        result.get(timeout_s=60)
    maps.client.resume_map(result.parts.id, budget_usd=1.0)
    assert result.get(timeout_s=60).text == "All: item 0 item 1 item 2 item 3"


def test_cancelling_ends_the_map_and_its_reduction(maps: MapScene):
    """Whoever waits is told, and no further call is made."""
    maps.stub.script(when="held", echoes=True, held=True)
    result = maps.client.map_reduce(maps.prompts(4, held=[0]), map="{{ item }}", reduce=TOGETHER, max_in_flight=1)
    maps.until_called(1)
    result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(timeout_s=60)
    maps.stub.release()
    maps.until_nothing_flies(result.parts)
    assert maps.stub.count() == 1


def test_a_map_that_was_cancelled_is_reduced_when_it_goes_on(maps: MapScene):
    """Its reduction was cancelled with it, before it was sent: it is no less wanted than the items."""
    maps.stub.script(when="held", echoes=True, held=True)
    result = maps.client.map_reduce(maps.prompts(3, held=[0]), map="{{ item }}", reduce="All: {{ parts | join(' ') }}")
    maps.until_called(3)
    result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(timeout_s=60)
    maps.until_nothing_flies(result.parts)
    maps.stub.script(echoes=True)
    maps.client.resume_map(result.parts.id)
    assert result.get(timeout_s=60).text == "All: item 0 held item 1 item 2"


def test_the_same_id_is_the_same_answer(maps: MapScene):
    """Asked for again, it is there: no item and no reduction is paid for twice."""
    first = maps.client.map_reduce(["a", "b"], map="About {{ item }}.", reduce=TOGETHER, id="again")
    text = first.get(timeout_s=60).text
    again = maps.client.map_reduce(["never read"], map="About {{ item }}.", reduce=TOGETHER, id="again")
    assert again.get(timeout_s=60).text == text
    assert maps.stub.count() == 3


def test_a_map_that_is_begun_anew_gets_a_reduction_of_its_own(maps: MapScene):
    """Redis forgot the map of this id, but not what it was reduced to: nobody takes that for the new one's."""
    old = maps.client.map_reduce(["tea"], map="About {{ item }}.", reduce=TOGETHER, id="report")
    assert "tea" in old.get(timeout_s=60).text
    maps.redis.delete(*maps.keys())
    new = maps.client.map_reduce(["rice"], map="About {{ item }}.", reduce=TOGETHER, id="report")
    assert new.get(timeout_s=60).text == "Together, 1, 0 of which failed: <About rice.>"


def test_a_reduction_whose_queue_was_purged_is_sent_again(maps: MapScene):
    """`resume_map` notices that it is neither in a queue nor with a worker."""
    maps.stub.script(when="held", echoes=True, held=True)
    result = maps.client.map_reduce(["a"], map="About {{ item }}.", reduce="held {{ parts[0] }}", use_cache=False)
    maps.until_called(2)
    maps.redis.delete("unacked", "unacked_index", "kagura:leases")
    maps.client.resume_map(result.parts.id)
    maps.stub.release()
    assert result.get(timeout_s=60).text == "held About a."


def test_templates_are_checked_before_anything_is_sent(maps: MapScene):
    """A reduction's that uses a name that nobody gives it, and an item that lacks a field."""
    with pytest.raises(PromptError, match="answers"):
        maps.client.map_reduce(["a"], map="About {{ item }}.", reduce="All: {{ answers }}")
    with pytest.raises(ItemInvalid, match="item 1"):
        maps.client.map_reduce([{"what": 1}, {"where": 2}], map="About {{ what }}.", reduce=TOGETHER)
    assert maps.stub.count() == 0
