"""Many prompts answered as one map: what comes back, in which order, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from kagura_tasks import LLMClient
from kagura_tasks.errors import MapExpired, RequestRefused, ResultTimeout
from kagura_tasks.groups import LLMGroupResult, MapItem
from tests.support.map_scene import MapScene, texts
from tests.support.workers import ROOT


def test_answers_are_in_the_order_of_the_items(maps: MapScene):
    """However long each of them took."""
    maps.stub.script(when="slow", echoes=True, delay_s=0.3)
    prompts = maps.prompts(60, slow=[0, 7, 31])
    group = maps.client.map(prompts, max_in_flight=16)
    assert texts(group.get()) == prompts
    assert maps.stub.count() == 60


def test_a_failed_item_has_its_typed_error_in_its_place(maps: MapScene):
    """The others are answered; asking an outcome for its completion raises the error."""
    maps.stub.script(when="bad", status=400)
    prompts = maps.prompts(20, bad=[3, 11])
    group = maps.client.map(prompts)
    answers = group.get()
    assert [number for number, one in enumerate(answers) if isinstance(one, RequestRefused)] == [3, 11]
    assert texts(answers)[12:] == prompts[12:]
    failed = next(one for one in group if one.index == 3)
    assert (failed.completion, type(failed.error)) == (None, RequestRefused)
    with pytest.raises(RequestRefused):
        failed.get()


def test_outcomes_come_while_it_runs_as_they_end(maps: MapScene):
    """The first ones before the last item was started; each once, with a cursor to go on from."""
    maps.stub.script(when="held", echoes=True, held=True)
    group = maps.client.map(maps.prompts(12, held=[0, 6]), max_in_flight=2)
    outcomes = group.stream()
    first = [one.index for _, one in zip(range(5), outcomes, strict=False)]
    assert first == [1, 2, 3, 4, 5]
    assert maps.stub.count() < 12
    maps.stub.release()
    rest = [one.index for one in maps.client.group(group.id).stream(after=outcomes.cursor)]
    assert sorted(first + rest) == list(range(12))


def test_in_order_each_comes_once_those_before_it_are_there(maps: MapScene):
    """Also from the middle."""
    maps.stub.script(when="slow", echoes=True, delay_s=0.3)
    group = maps.client.map(maps.prompts(30, slow=[0, 20]), max_in_flight=8)
    assert [one.index for one in group.in_order()] == list(range(30))
    assert [one.index for one in group.in_order(after=25)] == list(range(25, 30))


async def test_the_same_without_blocking_the_event_loop(maps: MapScene):
    """amap, await, async for, in both orders; progress, state, pause and cancel."""
    prompts = maps.prompts(20)
    group = await maps.client.amap(prompts, max_in_flight=4)
    assert sorted([one.index async for one in group]) == list(range(20))
    assert [one.index async for one in group.in_order()] == list(range(20))
    assert texts(await group) == texts(await group.aget()) == prompts
    assert ((await group.aprogress()).done, await group.astatus()) == (20, "done")
    await group.apause()
    await group.acancel()
    assert await group.astatus() == "done"
    again = await maps.client.aresume_map(group.id)
    assert texts(await again) == prompts


def test_no_more_than_the_window_wait_or_run(maps: MapScene):
    """Neither in the broker nor at the provider, at any time."""
    maps.stub.script(echoes=True, delay_s=0.03)
    group = maps.client.map(maps.prompts(80), max_in_flight=5)
    in_flight, queued = [0], [0]
    while (progress := group.progress()).state == "running":
        in_flight.append(progress.in_flight)
        queued.append(maps.queued())
    assert max(in_flight) == 5
    assert max(queued) <= 5
    assert maps.stub.peak() == 5


def test_progress_says_how_far_it_is_and_what_it_cost(maps: MapScene):
    """While it runs, and at its end."""
    maps.stub.script(when="bad", status=400)
    maps.stub.script(when="held", echoes=True, held=True)
    group = maps.client.map(maps.prompts(20, bad=[1, 2], held=[18, 19]), max_in_flight=4)
    maps.until_called(20)
    outcomes = group.stream()
    for _ in zip(range(18), outcomes, strict=False):
        pass
    halfway = group.progress()
    assert (halfway.state, halfway.total, halfway.done, halfway.failed, halfway.in_flight) == ("running", 20, 16, 2, 2)
    assert halfway.rate_per_s > 0
    assert halfway.eta_s is not None
    maps.stub.release()
    assert len(group.get()) == 20
    end = group.progress()
    assert (end.state, end.done, end.failed, end.cached, end.in_flight, end.eta_s) == ("done", 18, 2, 0, 0, 0.0)
    assert end.prompt_tokens == 18 * 7
    assert end.cost_usd == pytest.approx(sum(one.completion.usage.cost_usd for one in group if one.completion))


def test_equal_items_cost_one_call_and_remembered_ones_none(maps: MapScene):
    """Each of them is answered; what cost nothing is counted, and used no tokens."""
    group = maps.client.map(["the same"] * 30, max_in_flight=10)
    assert texts(group.get()) == ["the same"] * 30
    assert (maps.stub.count(), group.progress().cached, group.progress().prompt_tokens) == (1, 29, 7)
    again = maps.client.map(["the same"] * 5)
    assert all(one.cached for one in again.get())
    assert (maps.stub.count(), again.progress().cached, again.progress().cost_usd) == (1, 5, 0.0)


def test_a_template_is_filled_with_each_row(maps: MapScene):
    """A row's fields are its variables; one that is no mapping is `item`."""
    rows = [{"name": "Ada", "n": 1}, {"name": "日本", "n": 2}]
    assert texts(maps.client.map(template="{{ name }}: {{ n }}", rows=rows).get()) == ["Ada: 1", "日本: 2"]
    plain = maps.client.map(template="Translate {{ item }}.", rows=iter(["one", "two"]))
    assert texts(plain.get()) == ["Translate one.", "Translate two."]


def test_items_may_have_names_and_be_chats_or_requests(maps: MapScene):
    """The name comes back with the outcome, in either order."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a chat"}]
    request = maps.client.request("a request", model="openai/other", temperature=0.5)
    items = [MapItem("a text", "first"), MapItem(chat, "zweitens / 2"), request, MapItem(request)]
    group = maps.client.map(items, temperature=0.2, model="openai/usual")
    assert texts(group.get()) == ["a text", "a chat", "a request", "a request"]
    assert {one.index: one.custom_id for one in group} == {0: "first", 1: "zweitens / 2", 2: "", 3: ""}
    assert [one.custom_id for one in group.in_order()] == ["first", "zweitens / 2", "", ""]
    asked = {one["body"]["messages"][-1]["content"]: one["body"] for one in maps.stub.ledger()["requests"]}
    assert {text: (body["model"], body["temperature"]) for text, body in asked.items()} == {
        "a text": ("usual", 0.2),
        "a chat": ("usual", 0.2),
        "a request": ("other", 0.5),
    }
    assert asked["a chat"]["messages"][0]["content"] == "Be brief."


@pytest.mark.parametrize("count", [0, 1])
def test_a_map_of_none_and_of_one(maps: MapScene, count: int):
    """They end as others do."""
    prompts = maps.prompts(count)
    group = maps.client.map(prompts)
    assert texts(group.get()) == prompts
    assert [one.index for one in group.in_order()] == list(range(count))
    assert (group.status(), group.progress().total, group.progress().eta_s) == ("done", count, 0.0)


def test_answers_outlive_the_process_that_asked(maps: MapScene):
    """Another one reads them by the map's id, with what the first one wanted to be found."""
    prompts = maps.prompts(5)
    group = maps.client.map(prompts, id="nightly.2026-11", about={"source": "rows.csv"})
    code = (
        "import sys, json; from kagura_tasks import LLMClient, Settings\n"
        "client = LLMClient(Settings(redis_url=sys.argv[1], tenant=sys.argv[2]))\n"
        "group = client.group('nightly.2026-11')\n"
        "print(json.dumps([[one.text for one in group.get()], group.about()]))"
    )
    command = [sys.executable, "-c", code, str(maps.settings.redis_url), maps.settings.tenant]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(said) == [prompts, {"source": "rows.csv"}]
    assert group.about() == {"source": "rows.csv"}


def test_tenants_share_no_map(maps: MapScene):
    """The same id is another map for each, with calls of its own; a tenant without one finds none."""
    other = LLMClient(maps.settings.override(tenant=f"{maps.settings.tenant}-other"))
    mine = maps.client.map(["shared prompt", "mine"], id="report")
    theirs = other.map(["shared prompt", "theirs"], id="report")
    assert texts(mine.get()) == ["shared prompt", "mine"]
    assert texts(theirs.get()) == ["shared prompt", "theirs"]
    assert maps.calls()["shared prompt"] == 2
    assert texts(maps.client.group("report", tenant=other.settings.tenant).get()) == ["shared prompt", "theirs"]
    named = maps.client.map(["by name"], id="named", tenant=other.settings.tenant)
    assert texts(other.group("named").get()) == texts(named.get()) == ["by name"]
    with pytest.raises(MapExpired, match="tenant"):
        maps.client.group("named").get()


@pytest.mark.parametrize("read", ["get", "progress", "status", "about", "__iter__", "in_order"])
def test_a_map_that_is_not_there_is_said_to_be_gone(maps: MapScene, read: str):
    """Whatever is asked of it."""

    def ask(group: LLMGroupResult) -> Any:
        found = getattr(group, read)()
        return list(found) if read in ("__iter__", "in_order") else found

    with pytest.raises(MapExpired, match="KAGURA_TASKS_MAP_TTL_S"):
        ask(maps.client.group("never-was"))
    with pytest.raises(MapExpired):
        maps.client.resume_map("never-was")


def test_waiting_ends_in_time_and_the_map_goes_on(maps: MapScene):
    """After the seconds that the caller says; or, where nothing ends, after the setting's."""
    maps.stub.script(echoes=True, held=True)
    group = maps.client.map(maps.prompts(3))
    with pytest.raises(ResultTimeout):
        group.get(timeout_s=0.2)
    impatient = LLMClient(maps.settings.override(wait_timeout_s=0.5)).group(group.id)
    with pytest.raises(ResultTimeout):
        list(impatient)
    maps.until_called(3)
    maps.stub.release()
    assert texts(group.get()) == maps.prompts(3)


def test_an_item_costs_redis_few_commands(maps: MapScene):
    """Fetched together with others, it is taken, joins a flight, lands, and is settled, which sends the next one."""
    count = 300
    maps.client.map(maps.prompts(10)).get()
    maps.redis.config_resetstat()
    maps.client.map([f"{prompt} again" for prompt in maps.prompts(count)], max_in_flight=32).get()
    scripts = maps.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    # Four for each, and the workers' and the reader's shared ones.
    assert scripts < count * 6
