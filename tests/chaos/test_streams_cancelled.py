"""Tasks that are ended from outside while they stream, on each pool."""

from __future__ import annotations

import time

import pytest

from kagura_tasks import signatures
from kagura_tasks.errors import TaskCancelled
from kagura_tasks.streaming.events import Cancelled, Done, Failed
from tests.support.stream_scenes import PoolScene, Reading
from tests.support.wait import until

_SLOW = {"text": "A word or two. " * 100, "chunks": 300, "chunk_delay_s": 0.05}


def test_a_running_call_is_closed_within_a_second(pool_scene: PoolScene, prompt: str):
    """Its stream ends with what the call had used, who waits is told, and what runs beside it goes on."""
    pool_scene.stub.script(**_SLOW)
    pool_scene.stub.script(when="Sibling", text="Untouched.", chunks=10, chunk_delay_s=0.1)
    result = pool_scene.client.submit(prompt, stream=True)
    reading = Reading(result.stream())
    reading.until_text()
    sibling = Reading(pool_scene.client.stream(f"{prompt} Sibling"))
    sibling.until_text(pieces=1)
    cancelled_at = time.monotonic()
    result.cancel()
    last = reading.until_over(5)
    assert isinstance(last, Cancelled)
    assert last.usage.completion_tokens > 0
    seen = until(lambda: pool_scene.request_of(prompt)["ended_at"], what="a closed call")
    assert seen - cancelled_at < 1
    assert pool_scene.request_of(prompt)["left"]
    with pytest.raises(TaskCancelled):
        result.get(timeout_s=5)
    assert isinstance(sibling.until_over(), Done)
    assert sibling.text == "Untouched."
    again = list(pool_scene.client.resume(result.id).events())
    assert again == reading.events


def test_a_queued_task_is_not_started(pool_scene: PoolScene, prompt: str):
    """Its readers see `cancelled` at once, and the provider is never asked."""
    pool_scene.stub.script(**_SLOW)
    running = [pool_scene.client.stream(f"{prompt} {number}") for number in range(pool_scene.concurrency)]
    until(lambda: pool_scene.stub.count() == len(running), what="a busy worker")
    queued = pool_scene.client.stream(prompt)
    reading = Reading(queued)
    queued.cancel()
    assert isinstance(reading.until_over(5), Cancelled)
    assert reading.kinds == ["cancelled"]
    for stream in running:
        stream.cancel()
    assert [Reading(stream).until_over(10).kind for stream in running] == ["cancelled"] * len(running)
    assert pool_scene.client.complete(f"{prompt} Later", timeout_s=30, use_cache=False).text
    assert pool_scene.calls_of(prompt) == 0


@pytest.mark.parametrize("pool", ["threads"])
def test_cancelling_after_the_end_changes_nothing(pool_scene: PoolScene, prompt: str):
    """The answer stays, and so does its stream."""
    stream = pool_scene.client.stream(prompt)
    events = list(stream.events())
    stream.cancel()
    assert list(pool_scene.client.resume(stream.id).events()) == events
    assert pool_scene.client.result(stream.id).get(timeout_s=5).text == stream.completion().text


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_task_that_waits_for_its_next_try_is_cancelled(pool_scene: PoolScene, prompt: str):
    """It is in Celery's hands then, and no call is running; its readers are told all the same."""
    pool_scene.stub.script(status=429, headers={"Retry-After": "30"})
    result = pool_scene.client.submit(prompt, stream=True)
    reading = Reading(result.stream())
    until(lambda: result.status() == "RETRY", what="a task that waits")
    result.cancel()
    assert isinstance(reading.until_over(10), Cancelled)
    assert pool_scene.calls_of(prompt) == 1


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_celerys_own_terminate_ends_the_readers(pool_scene: PoolScene, prompt: str):
    """`revoke(terminate=True)` kills what writes the stream: the record tells readers what became of it."""
    pool_scene.stub.script(**_SLOW)
    stream = pool_scene.client.stream(prompt)
    reading = Reading(stream)
    reading.until_text()
    pool_scene.client.app.control.revoke(stream.id, terminate=True)
    assert isinstance(reading.until_over(10), Cancelled)
    until(lambda: pool_scene.request_of(prompt)["left"], what="a closed call")


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_hard_time_limit_ends_the_readers(pool_scene: PoolScene, prompt: str):
    """Whoever reads gets an error, which `get` raises, too."""
    pool_scene.stub.script(**_SLOW)
    request = pool_scene.client.request(prompt)
    sent = signatures.complete(pool_scene.client.app, request, looked_up=False, stream=True)
    task_id = sent.apply_async(time_limit=1).id
    until(lambda: pool_scene.redis.exists(f"kagura:stream:default:{task_id}"), what="a stream")
    reading = Reading(pool_scene.client.resume(task_id))
    last = reading.until_over(10)
    assert isinstance(last, Failed)
    with pytest.raises(type(last.error())):
        pool_scene.client.result(task_id).get(timeout_s=5)


@pytest.mark.parametrize("pool", ["asyncio"])
def test_a_cancelled_leader_leaves_its_followers(pool_scene: PoolScene, prompt: str):
    """One of them makes the call, and all of them end with one whole text."""
    pool_scene.stub.script(text="From the second call.", chunks=5, chunk_delay_s=0.1)
    pool_scene.stub.script(**_SLOW, times=1)
    leader = Reading(pool_scene.client.stream(prompt))
    leader.until_text()
    followers = [Reading(pool_scene.client.stream(prompt)) for _ in range(3)]
    for follower in followers:
        follower.until_text()
    leader.stream.cancel()
    assert isinstance(leader.until_over(), Cancelled)
    for follower in followers:
        assert isinstance(follower.until_over(), Done)
        assert follower.text == follower.stream.completion().text == "From the second call."
    assert pool_scene.calls_of(prompt) == 2


@pytest.mark.parametrize("pool", ["asyncio"])
def test_followers_of_a_long_stream_read_it_once(pool_scene: PoolScene, prompt: str):
    """A flight outlives its lease many times: followers join it again each time, and nothing is told twice."""
    text = "".join(f"{number}, " for number in range(60))
    pool_scene.stub.script(text=text, chunks=60, chunk_delay_s=0.06)
    leader = Reading(pool_scene.client.stream(prompt))
    leader.until_text()
    follower = Reading(pool_scene.client.stream(prompt))
    assert isinstance(leader.until_over(), Done)
    assert isinstance(follower.until_over(), Done)
    assert leader.text == follower.text == text
    assert follower.kinds == ["start", "done"]
