"""How a map begins: what is wrong is said before anything is paid for, and one id is one map, whoever starts it."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.errors import InvalidRequest, ItemInvalid, PromptError, RedisUnreachable, TaskCancelled
from kagura_tasks.groups import MapItem
from tests.support.llm import StubServer
from tests.support.map_scene import MapScene, texts
from tests.support.wait import until
from tests.support.workers import Fleet, WorkerOptions


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "template and the rows"),
        ({"prompts": ["a"], "template": "{{ item }}", "rows": ["b"]}, "template and the rows"),
        ({"prompts": ["a"], "rows": ["b"]}, "template and the rows"),
        ({"template": "{{ item }}"}, "template and the rows"),
        ({"prompts": "one text"}, "list of prompts"),
        ({"prompts": ["a"], "on_error": "ignore"}, "on_error"),
        ({"prompts": ["a"], "on_error": 1.5}, "on_error"),
        ({"prompts": ["a"], "on_error": -0.1}, "on_error"),
        ({"prompts": ["a"], "on_error": float("nan")}, "on_error"),
        ({"prompts": ["a"], "on_error": None}, "on_error"),
        ({"prompts": ["a"], "max_in_flight": 0}, "max_in_flight"),
        ({"prompts": ["a"], "max_in_flight": 10_001}, "max_in_flight"),
        ({"prompts": ["a"], "id": "a b"}, "map's id"),
        ({"prompts": ["a"], "id": ".a"}, "map's id"),
        ({"prompts": ["a"], "id": "x" * 65}, "map's id"),
        ({"prompts": ["a"], "id": "a:b"}, "map's id"),
        ({"prompts": ["a"], "priority": "soon"}, "interactive"),
        ({"prompts": ["a"], "tenant": "a:b"}, "tenant"),
        ({"prompts": ["a"], "model": "two words"}, "model"),
    ],
)
def test_a_map_that_cannot_be_right_is_not_begun(
    client: LLMClient, client_of_redis: redis.Redis, wrong: dict[str, Any], words: str
):
    """One typed error that says what would be right; Redis has nothing of it."""
    with pytest.raises(InvalidRequest, match=words):
        client.map(**wrong)
    assert client_of_redis.dbsize() == 0


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("  ", "empty"),
        ([], "messages"),
        ([{"content": "no role"}], "role"),
        (MapItem("a text", "two\nlines"), "custom_id"),
        (MapItem("a text", "x" * 513), "custom_id"),
        ("x" * 1_000_001, "KAGURA_TASKS_MAX_PROMPT_BYTES"),
        ("half \ud83d", "half a character"),
        (42, "a text or a list"),
        (None, "a text or a list"),
    ],
)
def test_one_wrong_item_is_named_and_none_is_sent(
    client: LLMClient, client_of_redis: redis.Redis, item: Any, words: str
):
    """By its number, also behind more than are added at a time."""
    prompts = [f"prompt {number}" for number in range(700)]
    with pytest.raises(ItemInvalid, match=words) as caught:
        client.map([*prompts, item, "another"])
    assert caught.value.index == 700
    assert client_of_redis.dbsize() == 0


def test_a_row_that_lacks_a_field_of_the_template_is_named(client: LLMClient, client_of_redis: redis.Redis):
    """With the field's name; a template that is none is said to be that, before a row is read."""
    rows = [{"name": "Ada", "canary": "secret-4711"}, {"title": "canary"}]
    with pytest.raises(ItemInvalid, match="name") as caught:
        client.map(template="Who is {{ name }}?", rows=rows)
    assert caught.value.index == 1
    assert "4711" not in str(caught.value)
    with pytest.raises(PromptError):
        client.map(template="{{ name", rows=_unread())
    assert client_of_redis.dbsize() == 0


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()])
def test_what_the_items_raise_is_raised_and_nothing_is_sent(
    client: LLMClient, client_of_redis: redis.Redis, error: BaseException
):
    """In the middle of the upload, Ctrl-C as well: the caller gets it, and Redis keeps nothing."""

    def prompts() -> Iterator[str]:
        yield from (f"prompt {number}" for number in range(1200))
        raise error

    with pytest.raises(type(error)):
        client.map(prompts(), id="broken")
    assert client_of_redis.dbsize() == 0
    assert client.map(["another"], id="broken").progress().total == 1


def test_an_upload_that_was_killed_is_begun_anew(settings: Settings, client_of_redis: redis.Redis):
    """What it had added is forgotten, and had a TTL."""
    killed, going_on = LLMClient(settings), LLMClient(settings)
    key = f"kagura:map:{settings.tenant}:long"

    def prompts() -> Iterator[str]:
        yield from (f"old {number}" for number in range(1500))
        until(lambda: client_of_redis.hlen(f"{key}:items") >= 500, what="added items")
        # As much as is left of a process that is killed here.
        assert 0 < client_of_redis.ttl(f"{key}:items") <= 3600
        group = going_on.map(["new 0", "new 1"], id="long")
        assert group.progress().total == 2
        yield "old last"

    with pytest.raises(InvalidRequest, match="begun anew"):
        killed.map(prompts(), id="long")
    assert client_of_redis.hlen(f"{key}:items") == 2
    assert going_on.group("long").status() == "running"


def test_two_who_start_one_id_at_once_start_one_map(maps: MapScene):
    """One of them uploads; the other is told so, or finds the map, and each item is paid for once."""
    both = threading.Barrier(2, timeout=20)
    prompts = maps.prompts(40)

    def start(_: int) -> object:
        def slowly() -> Iterator[str]:
            yield from prompts[:20]
            both.wait()
            yield from prompts[20:]

        try:
            return LLMClient(maps.settings).map(slowly(), id="one").get()
        except InvalidRequest as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(start, range(2)))
    refused = [one for one in ended if isinstance(one, InvalidRequest)]
    assert len(refused) == 1
    assert "somebody else" in str(refused[0])
    assert texts(maps.client.group("one").get()) == prompts
    assert set(maps.calls().values()) == {1}


def test_an_id_that_exists_goes_on_and_reads_no_item(maps: MapScene):
    """While it runs, when it was paused, and when it is over: the same answers, and no call for what was paid for."""
    maps.stub.script(echoes=True, delay_s=0.05)
    prompts = maps.prompts(20)
    group = maps.client.map(prompts, id="again", max_in_flight=2)
    assert maps.client.map(_unread(), id="again").id == "again"
    group.pause()
    assert texts(maps.client.map(_unread(), id="again", max_in_flight=10).get()) == prompts
    assert texts(maps.client.map(_unread(), id="again").get()) == prompts
    assert set(maps.calls().values()) == {1}


def test_a_map_can_be_waited_for_while_its_items_are_added(maps: MapScene):
    """By another client, which gets all of it."""
    prompts = maps.prompts(30)
    added, waits = threading.Event(), threading.Event()

    def slowly() -> Iterator[str]:
        yield from prompts[:10]
        added.set()
        assert waits.wait(20)
        yield from prompts[10:]

    with ThreadPoolExecutor(2) as pool:
        started = pool.submit(lambda: maps.client.map(slowly(), id="slow"))
        assert added.wait(20)
        group = LLMClient(maps.settings).group("slow")
        assert (group.status(), group.progress().total) == ("uploading", 0)
        with pytest.raises(InvalidRequest, match="send it again"):
            maps.client.resume_map("slow")
        answers = pool.submit(group.get)
        waits.set()
        assert texts(answers.result(30)) == texts(started.result(30).get()) == prompts


def test_a_map_is_cancelled_while_its_items_are_added(client: LLMClient, settings: Settings):
    """Whoever adds them is told, as whoever waits for it; none is sent, and its name is free for another try."""
    other = LLMClient(settings)

    def slowly() -> Iterator[str]:
        yield from (f"prompt {number}" for number in range(600))
        group = other.group("slow")
        with pytest.raises(InvalidRequest, match="cancel it"):
            group.pause()
        group.cancel()
        yield from (f"prompt {number}" for number in range(600, 1200))

    with pytest.raises(TaskCancelled):
        client.map(slowly(), id="slow")
    group = other.group("slow")
    assert (group.status(), group.progress().total, group.progress().was_started) == ("cancelled", 0, False)
    with pytest.raises(TaskCancelled):
        group.get()
    with pytest.raises(InvalidRequest, match="send it again"):
        client.resume_map("slow")
    assert client.map(["another"], id="slow").progress().total == 1


@pytest.mark.parametrize(
    ("priority", "name"), [("batch", "llm.batch\x06\x169"), ("interactive", "llm"), ("normal", "llm\x06\x163")]
)
def test_items_wait_in_the_queue_of_their_priority(
    client: LLMClient, client_of_redis: redis.Redis, priority: str, name: str
):
    """No more of them than the window, and what waits there says nothing of the prompts."""
    canary = f"canary{uuid4().hex}"
    client.map([f"{canary} {number}" for number in range(10)], priority=priority, max_in_flight=4)
    waiting = client_of_redis.lrange(name, 0, -1)
    assert len(waiting) == 4
    for message in waiting:
        assert canary not in message.decode()
        assert canary not in b64decode(_body(message)).decode()


def test_no_prompt_is_seen_in_logs_and_events(maps: MapScene):
    """Nor an answer, of items that succeed and of those that fail."""
    canary = f"canary{uuid4().hex}"
    maps.stub.script(when="bad", status=400)
    with maps.redis.pubsub() as events:
        events.psubscribe("*celeryev*")
        group = maps.client.map([canary, f"{canary} bad"])
        assert texts(group.get()) == [canary, "RequestRefused"]
        seen, kinds = "", set[str]()
        while not {"task-failed", "task-succeeded"} <= kinds:
            frame = events.get_message(timeout=30)
            assert frame is not None, f"no event within 30 s; so far: {seen}"
            told = b64decode(_body(frame["data"])).decode() if isinstance(frame["data"], bytes) else "[]"
            several = json.loads(told)
            mine = [one for one in (several if isinstance(several, list) else [several]) if group.id in str(one)]
            kinds |= {one["type"] for one in mine}
            seen += told
    assert group.id in maps.worker.log
    assert canary not in seen
    assert canary not in maps.worker.log
    assert canary not in "".join(name.decode() for name in maps.redis.scan_iter())


def test_where_redis_is_away_the_caller_is_told(settings: Settings):
    """By one typed error without the password."""
    away = LLMClient(Settings(redis_url="redis://:hunter2@127.0.0.1:1/0"))
    for ask in (lambda: away.map(["a"]), away.group("x").progress, away.group("x").cancel):
        with pytest.raises(RedisUnreachable) as caught:
            ask()
        assert "hunter2" not in str(caught.value)
    with pytest.raises(RedisUnreachable):
        LLMClient(away.settings.override(wait_timeout_s=0.5)).group("x").get()


def test_on_prefork_too(settings: Settings, start_workers: Fleet, stub: StubServer):
    """Each child takes items, and keeps their outcomes."""
    start_workers(1, WorkerOptions(pool="prefork", concurrency=3), api_base=stub.base_url)
    stub.script(echoes=True)
    stub.script(when="bad", status=400)
    prompts = [f"prompt {number}" for number in range(40)]
    group = LLMClient(settings).map([*prompts, "bad"], max_in_flight=6)
    assert texts(group.get()) == [*prompts, "RequestRefused"]
    assert (group.progress().done, group.progress().failed) == (40, 1)
    assert stub.peak() <= 3


def _unread() -> Iterable[str]:
    raise AssertionError("somebody reads the items")
    yield ""


def _body(message: bytes) -> str:
    return str(json.loads(message)["body"])
