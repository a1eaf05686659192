"""Maps that stop before their end, by failures or by hand, and go on: what is paid for is kept, and paid for once."""

from __future__ import annotations

import time

import pytest

from kagura_tasks import LLMClient
from kagura_tasks.errors import MapFailed, ResultTimeout, TaskCancelled
from kagura_tasks.groups import LLMGroupResult
from tests.support.map_scene import MapScene, texts
from tests.support.wait import until


def test_fail_starts_no_further_item_after_a_failure(maps: MapScene):
    """What was answered is kept and can be read; trying what failed again answers all, and pays for nothing twice."""
    maps.stub.script(when="bad", status=400)
    prompts = maps.prompts(12, bad=[4])
    group = maps.client.map(prompts, on_error="fail", max_in_flight=1)
    with pytest.raises(MapFailed, match="resume_map"):
        group.get()
    assert maps.stub.count() == 5
    progress = group.progress()
    assert (progress.state, progress.done, progress.failed) == ("failed", 4, 1)
    read: list[int] = []
    with pytest.raises(MapFailed):
        read.extend(one.index for one in group)
    maps.stub.script(echoes=True)
    again = maps.client.resume_map(group.id, retry_failed=True)
    assert texts(again.get()) == prompts
    assert maps.stub.count() == 5 + 8
    assert (again.progress().done, again.progress().failed) == (12, 0)


def test_a_failure_alone_is_not_tried_again(maps: MapScene):
    """Where only what is missing is wanted, the failed item keeps its error."""
    maps.stub.script(when="bad", status=400)
    group = maps.client.map(maps.prompts(4, bad=[1]), on_error="fail", max_in_flight=1)
    with pytest.raises(MapFailed):
        group.get()
    assert texts(maps.client.resume_map(group.id).get()) == ["item 0", "RequestRefused", "item 2", "item 3"]


@pytest.mark.parametrize(("bad", "ends"), [([5, 30], "done"), ([5, 6, 30], "failed")])
def test_a_part_of_all_items_may_fail(maps: MapScene, bad: list[int], ends: str):
    """Of 40 items 5 % are two: with them the map goes on to its end, with a third it stops."""
    maps.stub.script(when="bad", status=400)
    group = maps.client.map(maps.prompts(40, bad=bad), on_error=0.05, max_in_flight=1)
    until(lambda: group.status() != "running", what="a map that ends")
    progress = group.progress()
    assert (progress.state, progress.failed) == (ends, len(bad))
    assert (progress.settled == 40) == (ends == "done")


def test_paused_it_starts_nothing_and_resumed_it_pays_for_what_is_missing(maps: MapScene):
    """What runs is ended, and kept. Waiting for it ends in time, for nothing ends."""
    maps.stub.script(echoes=True, delay_s=0.05)
    prompts = maps.prompts(40)
    group = maps.client.map(prompts, max_in_flight=4)
    maps.until_called(8)
    group.pause()
    maps.until_nothing_flies(group)
    calls, done = maps.stub.count(), group.progress().done
    assert calls == done < 40
    assert (group.status(), maps.queued()) == ("paused", 0)
    with pytest.raises(ResultTimeout):
        group.get(timeout_s=0.5)
    assert maps.stub.count() == calls
    assert texts(maps.client.resume_map(group.id, max_in_flight=8).get()) == prompts
    assert set(maps.calls().values()) == {1}


def test_cancelled_it_closes_its_calls_and_keeps_its_answers(maps: MapScene):
    """Within a second. Whoever waits is told; resumed, it pays for what is missing alone."""
    maps.stub.script(when="held", echoes=True, held=True)
    prompts = maps.prompts(30, held=range(10, 14))
    group = maps.client.map(prompts, max_in_flight=4)
    until(lambda: group.progress().done == 10, what="ten answers")
    maps.until_called(14)
    group.cancel()
    cancelled_at = time.monotonic()
    until(lambda: _left(maps) == 4, what="four closed connections")
    assert time.monotonic() - cancelled_at < 1
    with pytest.raises(TaskCancelled):
        group.get()
    maps.until_nothing_flies(group)
    assert (group.status(), group.progress().done, group.progress().failed) == ("cancelled", 10, 0)
    maps.stub.script(echoes=True)
    assert texts(maps.client.resume_map(group.id).get()) == prompts
    assert {prompt: count for prompt, count in maps.calls().items() if count > 1} == dict.fromkeys(prompts[10:14], 2)


def test_cancelled_and_resumed_at_once_loses_nothing(maps: MapScene):
    """Before its calls have ended."""
    maps.stub.script(when="held", echoes=True, held=True)
    prompts = maps.prompts(20, held=range(4))
    group = maps.client.map(prompts, max_in_flight=4)
    maps.until_called(4)
    maps.stub.script(echoes=True)
    for _ in range(3):
        group.cancel()
        maps.client.resume_map(group.id)
    assert texts(group.get()) == prompts
    assert group.progress().failed == 0


def test_cancelling_a_map_leaves_another_tenants_alone(maps: MapScene):
    """Of the same id."""
    maps.stub.script(echoes=True, held=True)
    other = LLMClient(maps.settings.override(tenant=f"{maps.settings.tenant}-other"))
    mine, theirs = maps.client.map(["mine"], id="report"), other.map(["theirs"], id="report")
    maps.until_called(2)
    mine.cancel()
    until(lambda: _left(maps) == 1, what="a closed connection")
    maps.stub.release()
    assert texts(theirs.get()) == ["theirs"]


def test_an_item_whose_cancellation_nobody_announced_is_ended_too(maps: MapScene):
    """Whoever cancelled was killed before it told the workers: they look for themselves."""
    maps.stub.script(echoes=True, held=True)
    group = maps.client.map(maps.prompts(2))
    maps.until_called(2)
    maps.redis.hset(f"kagura:map:{maps.settings.tenant}:{group.id}", "state", "cancelled")
    until(lambda: _left(maps) == 2, 15, "two closed connections")


def test_a_map_that_is_over_stays_over(maps: MapScene):
    """Pause, cancel and resume change nothing, and ask nobody."""
    prompts = maps.prompts(5)
    group = maps.client.map(prompts)
    assert texts(group.get()) == prompts
    for stop in (group.pause, group.cancel, lambda: maps.client.resume_map(group.id, retry_failed=True)):
        stop()
        assert group.status() == "done"
    assert texts(group.get()) == prompts
    assert maps.stub.count() == 5


def test_an_item_that_has_to_wait_goes_back_to_the_queue(maps: MapScene):
    """The provider asks for patience: no worker's slot waits, the item stays in flight, and it is answered once."""
    maps.stub.script(when="busy", status=429, headers={"Retry-After": "1.5"}, times=1)
    prompts = maps.prompts(6, busy=[2])
    group = maps.client.map(prompts, max_in_flight=1)
    assert texts(group.get()) == prompts
    assert maps.calls() == {prompt: 2 if "busy" in prompt else 1 for prompt in prompts}
    assert {one.index: one.completion.attempts for one in group if one.completion}[2] == 2


def test_failures_are_tried_again_while_a_reader_follows(maps: MapScene):
    """It reads each answer once: those before, and those that were errors when it began."""
    maps.stub.script(when="bad", status=400)
    prompts = maps.prompts(10, bad=[2, 5])
    group = maps.client.map(prompts)
    assert texts(group.get()).count("RequestRefused") == 2
    outcomes = group.stream()
    before = {one.index for one in outcomes}
    maps.stub.script(echoes=True)
    again = maps.client.resume_map(group.id, retry_failed=True)
    assert before == set(range(10))
    assert {one.index for one in again.stream(after=outcomes.cursor)} == {2, 5}
    assert texts(again.get()) == prompts


def test_a_queue_that_was_purged_is_healed(maps: MapScene):
    """Its items' messages are gone, and resuming sends them again; what runs meanwhile is left alone."""
    maps.stub.script(when="held", echoes=True, held=True)
    prompts = maps.prompts(60, held=range(32))
    group = maps.client.map(prompts, max_in_flight=40)
    maps.until_called(32)
    waiting = list(maps.redis.scan_iter("llm*", _type="list"))
    assert sum(maps.redis.llen(name) for name in waiting) == 8
    maps.redis.delete(*waiting)
    maps.stub.release()
    until(lambda: group.progress().done == 52, what="what was not purged")
    assert group.progress().in_flight == 8
    assert texts(maps.client.resume_map(group.id).get()) == prompts
    assert set(maps.calls().values()) == {1}


def test_an_item_that_is_revoked_has_failed(maps: MapScene):
    """With Celery's own means; the map goes on without it."""
    maps.stub.script(when="held", echoes=True, held=True)
    group = maps.client.map(maps.prompts(6, held=[0]), max_in_flight=2)
    maps.until_called(1)
    maps.client.cancel(f"{maps.settings.tenant}:{group.id}.0")
    answers = group.get()
    assert texts(answers) == ["TaskCancelled", *maps.prompts(6)[1:]]


@pytest.mark.parametrize("part", ["items", "outcomes"])
@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"[]", b'{"error": 1}', b""])
def test_what_cannot_be_read_is_an_error_in_its_place(maps: MapScene, part: str, garbage: bytes):
    """A request or an outcome that somebody has changed: the map ends, and all others are right."""
    maps.stub.script(when="held", echoes=True, held=True)
    prompts = maps.prompts(8, held=[0])
    group = maps.client.map(prompts, max_in_flight=1)
    maps.until_called(1)
    _change(maps, group, part, garbage)
    maps.stub.release()
    answers = group.get()
    assert [one for one in texts(answers) if one not in prompts] in (["TaskFailed"], ["InvalidRequest"])
    assert texts(answers[6:]) == prompts[6:]
    assert group.status() == "done"


def _change(maps: MapScene, group: LLMGroupResult, part: str, garbage: bytes) -> None:
    """Put it in the place of the fifth item's request, or of its outcome, as if it had ended."""
    key = f"kagura:map:{maps.settings.tenant}:{group.id}"
    maps.redis.hset(f"{key}:{part}", "5", garbage)
    if part == "outcomes":
        maps.redis.rpush(f"{key}:ended", "5")
    for name in ("outcomes", "ended"):
        maps.redis.expire(f"{key}:{name}", 60)


def _left(maps: MapScene) -> int:
    return sum(one["left"] for one in maps.stub.ledger()["requests"])
