"""Maps whose workers, clients and servers die, freeze and come back: each item ends once, and little is paid twice."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kagura_tasks.embedded_redis import tied_to_this_process
from kagura_tasks.errors import MapExpired, RedisUnreachable, RequestRefused, TaskFailed, TaskPoisoned
from kagura_tasks.groups import Answer, LLMGroupResult
from tests.support.chaos import Scene, freeze, thaw
from tests.support.map_scene import texts
from tests.support.wait import until
from tests.support.workers import ROOT

ITEMS = 4_000
BAD = range(57, ITEMS, 100)


@pytest.fixture(params=["threads", "asyncio"])
def pool(request: pytest.FixtureRequest) -> str:
    """Outcomes are kept by a thread, or by the event loop."""
    return str(request.param)


@pytest.fixture
def prompts(scene: Scene) -> list[str]:
    """Some, of which the provider says what they are."""
    scene.stub.script(echoes=True)
    return [f"item {number}." for number in range(200)]


@pytest.mark.timeout(300)
def test_thousands_of_items_survive_the_death_of_all_workers(scene: Scene):
    """One in a hundred fails for good, and at half of them all workers are killed, and others started: each answer and
    each typed error is in its place, and the provider was asked once for each, but for those that the kill cut off."""
    scene.stub.script(echoes=True)
    scene.stub.script(when="bad", status=400)
    prompts = [f"item {number}{' bad' if number in BAD else ''}" for number in range(ITEMS)]
    killed = scene.workers(2, "asyncio", concurrency=32)
    with ThreadPoolExecutor(1) as waiting:
        group = scene.client.map(iter(prompts), max_in_flight=64)
        answered = waiting.submit(group.get)
        _until_done(group, ITEMS // 2, 120)
        for worker in killed:
            worker.kill9()
        assert group.progress().settled < ITEMS
        scene.workers(2, "asyncio", concurrency=32)
        answers = answered.result(180)
    assert [number for number, one in enumerate(answers) if isinstance(one, RequestRefused)] == list(BAD)
    assert texts(answers) == [one if "bad" not in one else "RequestRefused" for one in prompts]
    progress = group.progress()
    assert (progress.state, progress.in_flight) == ("done", 0)
    assert (progress.done, progress.failed) == (ITEMS - len(BAD), len(BAD))
    calls = scene.calls()
    assert calls.keys() == set(prompts)
    assert sum(calls.values()) <= ITEMS + 64
    scene.until_settled()


@pytest.mark.parametrize("moment", ["adds", "waits"])
def test_a_client_that_is_killed_is_followed_by_another(scene: Scene, prompts: list[str], moment: str):
    """While it adds items nothing was sent, and the other adds all of them; while it waits, the map goes on without it,
    and the other finds it. In either case it says the same, and each item is paid for once."""
    with _client(scene.server.url, moment) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == f"{moment}\n"
        if moment == "adds":
            assert not scene.redis.exists("llm.batch\x06\x169")
        scene.workers(1, "asyncio", concurrency=8)
        killed.kill()
    assert texts(scene.client.map(prompts, id="nightly").get()) == prompts
    assert set(scene.calls().values()) == {1}


def test_a_poisoned_item_is_an_error_and_the_map_ends(scene: Scene, prompts: list[str]):
    """It kills its process each time: after the third it is tried no more, and all others are answered."""
    scene.workers(1, "prefork", concurrency=3)
    asked = [*prompts[:20], "This kills its worker.", *prompts[20:40]]
    answers = _get(scene.client.map(asked, max_in_flight=6))
    assert isinstance(answers[20], TaskPoisoned)
    assert texts(answers[:20] + answers[21:]) == prompts[:40]
    scene.until_settled()


def test_a_time_limit_ends_an_item_and_the_map_goes_on(scene: Scene, prompts: list[str]):
    """Celery kills the child that works on it, and says so."""
    scene.stub.script(when="item 7.", held=True)
    scene.workers(1, "prefork", concurrency=2, arguments=("--time-limit", "2"))
    answers = _get(scene.client.map(prompts[:20], max_in_flight=4))
    assert isinstance(answers[7], TaskFailed)
    assert "TimeLimitExceeded" in str(answers[7])
    assert texts(answers[:7] + answers[8:]) == prompts[:7] + prompts[8:20]


def test_a_zombies_outcomes_are_refused(scene: Scene, prompts: list[str], pool: str):
    """A worker is frozen with items; another is given them, and answers all. What the first one brings is too late."""
    scene.stub.script(when="item", text="From the zombie.", times=4, delay_s=1.0)
    (zombie,) = scene.workers(1, pool, concurrency=4)
    group = scene.client.map(prompts[:30], max_in_flight=4)
    until(lambda: scene.stub.count() == 4, what="four calls")
    freeze(zombie)
    scene.workers(1, pool, concurrency=4)
    answers = texts(_get(group))
    assert answers == prompts[:30]
    thaw(zombie)
    until(lambda: scene.counts().get("results_refused") == 4, what="four refused outcomes")
    assert (texts(group.get()), group.progress().done) == (answers, 30)
    scene.until_settled()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_redis_is_away_in_the_middle(scene: Scene, prompts: list[str], how: str):
    """For seconds, with what it appended to its file: workers and waiter go on when it is back."""
    scene.stub.script(echoes=True, delay_s=0.05)
    scene.workers(1, "threads", concurrency=4)
    scene.workers(1, "asyncio", concurrency=4)
    with ThreadPoolExecutor(1) as waiting:
        group = scene.client.map(prompts, max_in_flight=8)
        answered = waiting.submit(group.get)
        _until_done(group, 50)
        _away(scene, how)
        assert texts(answered.result(60)) == prompts
    assert (group.progress().state, group.progress().done) == ("done", 200)
    # What was taken or kept in the last second before a crash may be forgotten, and is done once more.
    assert sum(scene.calls().values()) <= 200 + 40
    scene.until_settled()


def test_a_redis_that_forgets_is_told_and_left_clean(forgetful_scene: Scene):
    """It keeps nothing on a disk: whoever waits hears that the map is gone, and workers bring nothing back."""
    scene = forgetful_scene
    scene.stub.script(echoes=True, held=True)
    scene.workers(1, concurrency=4)
    group = scene.client.map([f"item {number}" for number in range(20)], max_in_flight=8)
    with ThreadPoolExecutor(1) as waiting:
        answered = waiting.submit(group.get)
        until(lambda: scene.stub.count() == 4, what="four calls")
        scene.server.kill()
        scene.server.restart()
        with pytest.raises(MapExpired):
            answered.result(30)
    scene.stub.release()
    scene.until_settled()
    assert not list(scene.redis.scan_iter("kagura:map:*"))


def test_a_full_redis_loses_no_answer(scene: Scene, prompts: list[str]):
    """What cannot be kept now is kept when there is room; a map that cannot be added says so, and leaves nothing."""
    scene.stub.script(echoes=True, delay_s=0.05)
    scene.workers(1, "threads", concurrency=4)
    scene.workers(1, "asyncio", concurrency=4)
    group = scene.client.map(prompts, max_in_flight=8)
    _until_done(group, 20)
    scene.redis.config_set("maxmemory", 1)
    with pytest.raises(RedisUnreachable, match="memory is full"):
        scene.client.map(prompts, id="too-much")
    until(lambda: _refused_writes(scene) >= 10, what="outcomes that have no room")
    scene.redis.config_set("maxmemory", 0)
    assert texts(_get(group)) == prompts
    assert set(scene.calls().values()) == {1}
    assert not list(scene.redis.scan_iter("kagura:map:default:too-much*"))


def test_a_worker_that_is_told_to_stop_loses_and_repeats_nothing(scene: Scene, prompts: list[str], pool: str):
    """In the middle of a map, while another goes on."""
    scene.stub.script(echoes=True, delay_s=0.1)
    (old,) = scene.workers(1, pool, concurrency=4)
    group = scene.client.map(prompts[:120], max_in_flight=8)
    _until_done(group, 20)
    scene.workers(1, pool, concurrency=4)
    assert old.terminate() == 0
    assert texts(_get(group)) == prompts[:120]
    assert set(scene.calls().values()) == {1}
    scene.until_settled()


def _get(group: LLMGroupResult) -> list[Answer]:
    return group.get(timeout_s=60)


def _until_done(group: LLMGroupResult, count: int, timeout_s: float = 60) -> None:
    until(lambda: group.progress().done >= count, timeout_s, f"{count} answers")


def _refused_writes(scene: Scene) -> int:
    return int(scene.redis.info("errorstats").get("errorstat_OOM", {}).get("count", 0))


def _away(scene: Scene, how: str) -> None:
    leave, come_back = {
        "frozen": (scene.server.pause, scene.server.resume),
        "killed": (scene.server.kill, scene.server.restart),
    }[how]
    leave()
    back_at = time.monotonic() + scene.settings.redis_timeout_s + 2
    until(lambda: time.monotonic() > back_at, what="an absence beyond all timeouts")
    come_back()


def _client(url: str, moment: str) -> subprocess.Popen[str]:
    """A process that adds items and then hangs, or waits for its answers; what it does it says first."""
    code = (
        "import sys, time\n"
        "from kagura_tasks import LLMClient, Settings\n"
        "def items():\n"
        "    yield from (f'item {number}.' for number in range(150))\n"
        "    if sys.argv[2] == 'adds':\n"
        "        yield from ('x' * 100_000 for number in range(40))\n"
        "        print('adds', flush=True); time.sleep(60)\n"
        "    yield from (f'item {number}.' for number in range(150, 200))\n"
        "group = LLMClient(Settings(redis_url=sys.argv[1])).map(items(), id='nightly')\n"
        "print('waits', flush=True)\n"
        "group.get()\n"
    )
    command = tied_to_this_process([sys.executable, "-c", code, url, moment])
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
