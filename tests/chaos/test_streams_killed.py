"""Workers that are killed, or frozen, while they write a stream."""

from __future__ import annotations

from kagura_tasks.streaming.events import Done, Lost, Reset
from tests.support.chaos import Scene, freeze, thaw
from tests.support.stream_places import numbers
from tests.support.stream_scenes import Reading, all_text
from tests.support.wait import until

_QUICK = {
    "KAGURA_TASKS_VISIBILITY_TIMEOUT_S": "2",
    "KAGURA_TASKS_STREAM_HEARTBEAT_S": "0.3",
    "KAGURA_TASKS_FLIGHT_LEASE_S": "1",
    "KAGURA_TASKS_MAX_DEATHS": "20",
}
_BRIEF = {"KAGURA_TASKS_STREAM_TTL_S": "4"}
_SLOW = {"chunks": 300, "chunk_delay_s": 0.05}


def _quick(scene: Scene) -> None:
    """Readers here know how short the workers' terms are."""
    scene.settings = scene.settings.override(visibility_timeout_s=2.0, stream_heartbeat_s=0.3)
    scene.client = type(scene.client)(scene.settings)


def test_a_stream_survives_its_writers(scene: Scene, prompt: str):
    """A worker of each pool is killed in the middle of the text, and none is left: readers are told that it is lost, in
    bounded time. The next worker begins anew, which shows as a reset with a higher attempt; reading on from `lost`
    leaves nothing out, and the stream ends with one whole attempt."""
    _quick(scene)
    pools = ["threads", "prefork", "asyncio"]
    scene.stub.script(text="The whole of the last answer.", chunks=5)
    for number in range(len(pools)):
        scene.stub.script(text=f"Never whole {number}. " * 100, **_SLOW, times=1)
    stream = scene.client.stream(prompt)
    events, after = [], 0
    for attempt, pool in enumerate([*pools, "threads"], 1):
        (worker,) = scene.workers(1, pool, environment=_QUICK)
        reading = Reading(scene.client.resume(stream.id, after))
        if attempt > len(pools):
            break
        reading.until_text(attempt)
        worker.kill9()
        assert isinstance(reading.until_over(10), Lost)
        events += reading.events[:-1]
        after = reading.events[-1].seq
    assert isinstance(reading.until_over(), Done)
    events += reading.events
    assert numbers(events) == list(range(1, len(events) + 1))
    assert [event.attempt for event in events if isinstance(event, Reset)] == [2, 3, 4]
    assert reading.text == scene.client.resume(stream.id).completion().text == "The whole of the last answer."


def test_a_frozen_writer_adds_nothing_when_it_wakes(scene: Scene, prompt: str):
    """Frozen while it leads: who follows takes over, its own task goes to another worker, and all end with that text.
    When it wakes, nothing of its text appears anywhere, and its call is closed. Killed writers' keys end by themselves.
    """
    _quick(scene)
    scene.stub.script(text="From the living.", chunks=4)
    scene.stub.script(text="From the zombie. " * 100, **_SLOW, times=1)
    scene.stub.script(when="Another", text="Cut short. " * 100, **_SLOW)
    zombie, living = scene.workers(
        2, environment={**_QUICK, **_BRIEF}, concurrency=1, arguments=("--prefetch-multiplier=1",)
    )
    leader = Reading(scene.client.stream(prompt))
    leader.until_text()
    follower = Reading(scene.client.stream(prompt))
    follower.until_text()
    if f"{leader.stream.id}" in living.log:
        zombie, living = living, zombie
    freeze(zombie)
    assert isinstance(follower.until_over(), Done)
    assert isinstance(leader.until_over(), Done)
    assert (leader.text, follower.text) == ("From the living.", "From the living.")
    assert [event.attempt for event in leader.events if isinstance(event, Reset)] == [2]
    at_rest = [event.seq for event in scene.client.resume(leader.stream.id).events()]
    thaw(zombie)
    until(lambda: scene.stub.ledger()["requests"][0]["left"], what="a closed call")
    assert scene.calls() == {prompt: 2}
    assert [event.seq for event in scene.client.resume(leader.stream.id).events()] == at_rest
    assert all_text(leader.events).count("From the living.") == 1
    cut = Reading(scene.client.stream(f"{prompt} Another"))
    cut.until_text()
    for worker in (zombie, living):
        worker.kill9()
    until(lambda: not scene.redis.keys("kagura:stream:*"), 4 + 5, "all keys gone")
