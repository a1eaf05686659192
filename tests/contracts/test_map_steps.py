"""The steps that change a map in Redis, each by itself: twice, late, and out of turn."""

from __future__ import annotations

import pytest
import redis

from kagura_tasks import Settings
from kagura_tasks.delivery_keys import COUNTS
from kagura_tasks.errors import MapExpired, TaskFailed
from kagura_tasks.maps.store import MapStore, StoredItem
from kagura_tasks.sources import WAITING
from tests.support.maps import LIST, Delivery, Steps, terms


@pytest.fixture
def steps(settings: Settings) -> Steps:
    return Steps(settings)


def test_nothing_is_sent_before_all_items_are_there(steps: Steps):
    """They are added in portions; only the start sends, and no more than the window has room for."""
    WAITING.run(steps.store.begin())
    WAITING.run(steps.store.add(0, [StoredItem("{}", "")] * 3))
    assert steps.deliver() is None
    other = Steps(steps.settings).start(5, window=3)
    assert [one.index for one in other.deliver_all()] == [0, 1, 2]


def test_a_start_whose_answer_was_lost_is_made_once(steps: Steps, client_of_redis: redis.Redis):
    """redis-py sends it a second time: the caller hears that it was started, and nothing is sent twice."""
    steps.start(5, window=3)
    assert WAITING.run(steps.store.start(terms(1)))
    assert client_of_redis.llen(LIST) == 3


def test_an_upload_that_another_one_replaced_adds_and_starts_nothing(steps: Steps):
    """Nor does it take the other's items away when it gives up."""
    first, second = steps.store, MapStore(steps.settings, steps.name)
    WAITING.run(first.begin())
    WAITING.run(first.add(0, [StoredItem("first", "")]))
    WAITING.run(second.begin())
    WAITING.run(second.add(0, [StoredItem("second", "")]))
    assert not WAITING.run(first.add(1, [StoredItem("first", "")]))
    assert not WAITING.run(first.start(terms(1)))
    WAITING.run(first.drop())
    assert steps.redis.hgetall(f"{steps.name.key}:items") == {b"0": b"second"}


def test_an_upload_that_is_given_up_leaves_nothing(steps: Steps):
    """Until it was started; from then on it is kept."""
    WAITING.run(steps.store.begin())
    WAITING.run(steps.store.add(0, [StoredItem("{}", "a name")]))
    WAITING.run(steps.store.drop())
    assert steps.all_keys() == []
    steps.start(1)
    WAITING.run(steps.store.drop())
    assert steps.fields["state"] == "running"


def test_an_upload_that_is_cancelled_takes_no_item_and_starts_nothing(steps: Steps):
    """It cannot be paused, nor resumed: what it had is gone. Its name is free for a map that is sent again."""
    WAITING.run(steps.store.begin())
    WAITING.run(steps.store.add(0, [StoredItem("{}", "a name")]))
    steps.stop("paused")
    assert steps.fields["state"] == "uploading"
    for _ in range(2):
        steps.stop("cancelled")
    assert not WAITING.run(steps.store.add(1, [StoredItem("{}", "")]))
    assert not WAITING.run(steps.store.start(terms(2)))
    WAITING.run(steps.store.drop())
    assert steps.page().state == "cancelled"
    assert steps.resume() == "uploading"
    assert [0 < steps.redis.ttl(key) <= 3600 for key in steps.all_keys()] == [True]
    again = Steps(steps.settings, steps.name.map_id).start(1)
    assert [one.index for one in again.deliver_all()] == [0]


def test_settled_twice_is_settled_once(steps: Steps):
    """The worker did not hear that it was kept, and says it again."""
    steps.start(3, window=1)
    (first,) = steps.deliver_all()
    steps.settle(first)
    kept = steps.page().outcomes
    steps.settle(first, "failed")
    assert steps.counts("done", "failed") == (1, 0)
    assert (steps.page().outcomes, steps.ended()) == (kept, [b"0"])
    assert [one.index for one in steps.deliver_all()] == [1]


def test_a_zombie_settles_nothing(steps: Steps):
    """Its message was given to another worker: what it brings, before that one ends or after, is refused."""
    steps.start(2, window=1)
    (zombies,) = steps.deliver_all()
    living = steps.redeliver(zombies)
    steps.settle(zombies, "failed")
    assert steps.counts("done", "failed") == (0, 0)
    steps.settle(living)
    steps.settle(zombies, "failed")
    assert steps.counts("done", "failed") == (1, 0)
    assert steps.redis.hget(COUNTS, "results_refused") == b"2"


def test_what_comes_for_a_map_that_is_gone_leaves_no_key(steps: Steps):
    """Neither an item's end, nor a worker who wants its request, nor whoever stops it or goes on."""
    lost = Delivery(steps.name.task_id(0), "tag")
    for how in ("done", "failed", "cancelled"):
        steps.settle(lost, how)
    assert steps.take(lost) is None
    steps.stop("cancelled")
    assert steps.resume() == ""
    with pytest.raises(MapExpired):
        steps.page()
    assert steps.all_keys() == []


def test_what_comes_for_a_map_that_was_replaced_is_not_its_successors(steps: Steps):
    """Redis forgot it, say, and it was begun anew with other items, while a worker had one of the old ones."""
    steps.start(1)
    (old,) = steps.deliver_all()
    steps.redis.delete(*steps.all_keys())
    successor = Steps(steps.settings, steps.name.map_id).start(1)
    (new,) = successor.deliver_all()
    assert (old.task_id, old.tag != new.tag) == (new.task_id, True)
    assert steps.take(old) is None
    steps.settle(old)
    assert successor.counts("done") == (0,)
    assert successor.take(new) == {"number": 0}


def test_maps_of_one_id_share_nothing_between_tenants(steps: Steps):
    """Celery and its transport know no tenants: neither tasks nor messages may have the same name."""
    other = Steps(steps.settings.override(tenant="other"), steps.name.map_id).start(3, window=3)
    theirs = other.deliver_all()
    mine = steps.start(3, window=3).deliver_all()
    assert {one.task_id for one in mine}.isdisjoint(one.task_id for one in theirs)
    assert {one.tag for one in mine}.isdisjoint(one.tag for one in theirs)
    assert steps.name.reduce_id != other.name.reduce_id


def test_an_item_is_taken_as_often_as_its_message_comes(steps: Steps):
    """Until it has ended: a worker that died may have taken it before."""
    steps.start(1)
    (delivery,) = steps.deliver_all()
    assert steps.take(delivery) == steps.take(delivery) == {"number": 0}
    steps.settle(delivery)
    assert steps.take(delivery) is None
    assert steps.fields["state"] == "done"


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_an_item_of_a_stopped_map_waits_until_it_goes_on(steps: Steps, state: str):
    """Its message ends; when the map goes on it gets a new one, before all that were not sent yet."""
    steps.start(4, window=2)
    first, second = steps.deliver_all()
    steps.stop(state)
    assert steps.take(first) is None
    assert steps.take(second) is None
    assert steps.flying == set()
    assert steps.deliver() is None
    assert steps.resume() == "running"
    again = steps.deliver_all()
    assert [one.index for one in again] == [0, 1]
    assert {one.tag for one in again}.isdisjoint({first.tag, second.tag})
    assert steps.take(again[0]) == {"number": 0}


def test_an_item_that_was_cancelled_with_its_map_is_tried_again(steps: Steps):
    """When the map goes on; also where the call ends only after that."""
    steps.start(2, window=2)
    early, late = steps.deliver_all()
    steps.stop("cancelled")
    steps.settle(early, "cancelled")
    assert steps.resume() == "running"
    assert [one.index for one in steps.deliver_all()] == [0]
    steps.settle(late, "cancelled")
    assert [one.index for one in steps.deliver_all()] == [1]
    assert steps.counts("done", "failed") == (0, 0)


def test_an_item_that_was_cancelled_by_itself_has_failed(steps: Steps):
    """Celery's revoke does that; sent once more, it would be revoked once more."""
    steps.start(1)
    steps.settle(steps.deliver_all()[0], "cancelled")
    assert (steps.counts("failed"), steps.fields["state"]) == ((1,), "done")


def test_what_was_answered_in_spite_of_the_cancellation_is_kept(steps: Steps):
    """It is paid for. It was cancelled once: a later cancellation of its own counts."""
    steps.start(2, window=2)
    first, second = steps.deliver_all()
    steps.stop("cancelled")
    steps.settle(first)
    assert steps.resume() == "running"
    assert steps.deliver_all() == []
    assert steps.counts("done") == (1,)
    assert steps.flying == {second.index}


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_map_that_is_over_is_not_stopped(steps: Steps, state: str):
    """All its items have ended."""
    steps.start(1)
    steps.settle(steps.deliver_all()[0])
    steps.stop(state)
    assert steps.fields["state"] == "done"


def test_a_map_that_failures_stopped_is_over_when_nothing_flies(steps: Steps):
    """Until then its calls can be cancelled; it cannot be paused, for it starts nothing."""
    steps.start(5, window=3, max_failed=0)
    first, *others = steps.deliver_all()
    steps.settle(first, "failed")
    steps.stop("paused")
    assert steps.fields["state"] == "failed"
    for one in others:
        steps.settle(one)
    assert steps.deliver() is None
    steps.stop("cancelled")
    assert steps.fields["state"] == "failed"
    assert steps.counts("done", "failed") == (2, 1)


def test_what_lost_its_message_is_sent_again(steps: Steps):
    """In front of the others, and only what has not ended meanwhile."""
    steps.start(6, window=3)
    first, *_purged = steps.deliver_all()
    steps.settle(first)
    steps.deliver_all()
    assert steps.resume(lost=(0, 1, 2, 3)) == "running"
    assert [one.index for one in steps.deliver_all()] == [1, 2, 3]
    assert len(steps.flying) == 3


def test_what_ended_while_it_waited_to_be_sent_again_is_not_sent(steps: Steps):
    """It counted as lost, and a worker had it."""
    steps.start(2, window=1)
    (first,) = steps.deliver_all()
    steps.resume(lost=(0,))
    (second,) = steps.deliver_all()
    steps.stop("paused")
    assert steps.take(second) is None
    steps.settle(first)
    steps.resume()
    assert [one.index for one in steps.deliver_all()] == [1]


def test_a_smaller_window_is_kept_once_what_flies_has_landed(steps: Steps):
    """Nothing is called back, and nothing is sent until there is room; a larger one is filled at once."""
    steps.start(10, window=4)
    flying = steps.deliver_all()
    steps.resume(window=2)
    for one in flying[:2]:
        steps.settle(one)
    assert steps.deliver() is None
    steps.settle(flying[2])
    assert [one.index for one in steps.deliver_all()] == [4]
    steps.resume(window=5)
    assert len(steps.deliver_all()) == 3


def test_a_large_window_is_filled_in_several_steps(steps: Steps):
    """Redis serves nobody else meanwhile: none of them sends more than 256."""
    WAITING.run(steps.store.begin())
    for first in range(0, 1000, 500):
        WAITING.run(steps.store.add(first, [StoredItem("{}", "")] * 500))
    WAITING.run(steps.store.start(terms(1000, window=600)))
    sent = steps.deliver_all()
    assert len(sent) == 256
    steps.settle(sent[0])
    assert len(steps.deliver_all()) == 256
    steps.settle(sent[1])
    assert len(steps.flying) == 600


def test_an_empty_map_is_over_when_it_starts(steps: Steps):
    """What is to follow is sent."""
    steps.start(0, then="then")
    assert steps.fields["state"] == "done"
    assert steps.redis.lrange(LIST, 0, -1) == [b"then"]


def test_what_follows_is_sent_once(steps: Steps):
    """When all items have ended: not again by an end that comes twice, nor when failures were tried again."""
    steps.start(2, window=2, then="then")
    first, second = steps.deliver_all()
    steps.settle(first, "failed")
    assert steps.redis.llen(LIST) == 0
    steps.settle(second)
    steps.settle(second)
    assert steps.redis.rpop(LIST) == b"then"
    assert steps.resume(retry_failed=True) == "running"
    (again,) = steps.deliver_all()
    steps.settle(again)
    assert steps.fields["state"] == "done"
    assert steps.redis.llen(LIST) == 0


def test_readers_keep_their_place_when_failures_are_tried_again(steps: Steps):
    """A reader behind them reads their new outcomes, and nothing twice; one that begins anew reads each item once."""
    steps.start(4, window=4)
    ends = zip(steps.deliver_all(), ["failed", "done", "failed", "done"], strict=True)
    for one, how in ends:
        steps.settle(one, how)
    before = steps.page()
    assert [one.number for one in before.outcomes] == [0, 1, 2, 3]
    steps.resume(retry_failed=True)
    assert steps.page(before.cursor).outcomes == []
    assert [one.number for one in steps.page().outcomes] == [1, 3]
    assert steps.ordered_page().outcomes == []
    for one in reversed(steps.deliver_all()):
        steps.settle(one)
    assert [one.number for one in steps.page(before.cursor).outcomes] == [2, 0]
    assert [one.number for one in steps.page().outcomes] == [1, 3, 2, 0]
    assert steps.page().cursor == 6
    assert [one.number for one in steps.ordered_page().outcomes] == [0, 1, 2, 3]
    assert steps.counts("done", "failed") == (4, 0)


def test_reading_in_order_stops_at_the_first_that_is_missing(steps: Steps):
    """And goes on behind it later."""
    steps.start(3, window=3)
    first, second, third = steps.deliver_all()
    steps.settle(third)
    steps.settle(first)
    page = steps.ordered_page()
    assert [one.number for one in page.outcomes] == [0]
    steps.settle(second)
    assert [one.number for one in steps.ordered_page(page.cursor).outcomes] == [1, 2]


def test_a_page_is_bounded_in_bytes(steps: Steps):
    """Long answers come a few at a time, and each of them comes."""
    steps.start(5, window=5)
    for one in steps.deliver_all():
        steps.settle(one)
        steps.redis.hset(f"{steps.name.key}:outcomes", str(one.index), "x" * 600_000)
    for read in (steps.page, steps.ordered_page):
        numbers: list[list[int]] = []
        cursor = 0
        while found := (page := read(cursor)).outcomes:
            cursor = page.cursor
            numbers.append([one.number for one in found])
        assert numbers == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("kept", [b"\xff\xfe", b"{", b"", None])
def test_a_request_that_cannot_be_read_is_a_failure_of_its_item(steps: Steps, kept: bytes | None):
    """Also one that is not there any more: its worker says so, and the map goes on."""
    steps.start(2, window=1)
    items = f"{steps.name.key}:items"
    _ = steps.redis.hdel(items, "0") if kept is None else steps.redis.hset(items, "0", kept)
    (broken,) = steps.deliver_all()
    with pytest.raises(TaskFailed, match="no request"):
        steps.take(broken)


def test_garbage_among_the_ended_is_passed_over(steps: Steps):
    """What is no number, and a number without an outcome."""
    steps.start(2, window=2)
    for one in steps.deliver_all():
        steps.settle(one)
    steps.redis.rpush(f"{steps.name.key}:ended", "garbage", "99", "\xff")
    page = steps.page()
    assert ([one.number for one in page.outcomes], page.cursor) == ([0, 1], 5)


def test_every_key_has_a_ttl_after_every_step(steps: Steps):
    """Whoever is killed between two of them leaves nothing for ever."""

    def check() -> None:
        assert all(0 < steps.redis.ttl(key) <= 3600 for key in steps.all_keys())
        assert steps.all_keys()

    WAITING.run(steps.store.begin())
    check()
    WAITING.run(steps.store.add(0, [StoredItem("{}", "name")] * 6))
    check()
    WAITING.run(steps.store.start(terms(6)))
    check()
    for how in ("done", "failed", "cancelled"):
        (one,) = steps.deliver_all()
        steps.settle(one, how)
        check()
    steps.stop("cancelled")
    check()
    steps.settle(steps.deliver_all()[0], "cancelled")
    check()
    steps.resume(retry_failed=True)
    check()
