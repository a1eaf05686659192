"""The steps that change a map in Redis, each by itself: twice, late, out of turn, and in any order."""

from __future__ import annotations

import json

import hypothesis
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

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


class MapMachine(RuleBasedStateMachine):
    """One map under any sequence of steps, beside a model in which each item is in one place.

    The model knows which items have ended, and how; it knows no order, for that is what the other tests are for.
    """

    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self.steps = Steps(self.settings)
        self.steps.redis.delete(LIST)
        self.state = "running"
        self.with_workers: list[Delivery] = []
        self.zombies: list[Delivery] = []
        self.done: set[int] = set()
        self.failed: set[int] = set()
        self.cached = 0
        self.most_flying = 0

    @initialize(total=st.integers(1, 12), window=st.integers(1, 5), max_failed=st.integers(-1, 3))
    def begin(self, total: int, window: int, max_failed: int) -> None:
        self.total, self.window, self.max_failed = total, window, max_failed
        self.steps.start(total, window=window, max_failed=max_failed, then=json.dumps({"task_id": "then", "tag": ""}))
        self.then = 0

    @rule()
    def deliver(self) -> None:
        delivery = self.steps.deliver()
        if delivery is None:
            return
        if delivery.task_id == "then":
            self.then += 1
            return
        if self.steps.take(delivery) is None:
            assert self.state in ("paused", "cancelled", "failed") or self._has_ended(delivery)
        else:
            assert self.state == "running"
            self.with_workers.append(delivery)

    @rule(data=st.data(), how=st.sampled_from(["done", "cached", "failed", "cancelled"]), twice=st.booleans())
    def settle(self, data: st.DataObject, how: str, twice: bool) -> None:
        if not self.with_workers:
            return
        delivery = self.with_workers.pop(data.draw(st.integers(0, len(self.with_workers) - 1)))
        is_new = not self._has_ended(delivery)
        before = self.steps.counts("done", "failed")
        self.steps.settle(delivery, how)
        if twice:
            self.steps.settle(delivery, "failed" if how == "cancelled" else how)
        done, failed = (now - then for now, then in zip(self.steps.counts("done", "failed"), before, strict=True))
        assert done + failed <= is_new
        if how in ("done", "cached", "failed") or (twice and done + failed):
            assert done + failed == is_new
        if done:
            self.done.add(delivery.index)
            self.cached += how == "cached"
        if failed:
            self.failed.add(delivery.index)
        self._note_failures(failed)

    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """A worker is frozen; its message goes to another."""
        if self.with_workers:
            zombie = self.with_workers.pop(data.draw(st.integers(0, len(self.with_workers) - 1)))
            self.zombies.append(zombie)
            self.with_workers.append(self.steps.redeliver(zombie))

    @rule(data=st.data())
    def mistake(self, data: st.DataObject) -> None:
        """An item counts as lost, and is sent again, while a worker works on it."""
        if self.with_workers:
            self.steps.resume(lost=(data.draw(st.sampled_from(self.with_workers)).index,))
            self.state = "running"

    @rule(how=st.sampled_from(["done", "failed", "cancelled"]))
    def late(self, how: str) -> None:
        """It wakes up, and says how its item ended."""
        if self.zombies:
            before = self.steps.fields
            self.steps.settle(self.zombies.pop(), how)
            assert self.steps.fields == before

    @rule(state=st.sampled_from(["paused", "cancelled"]))
    def stop(self, state: str) -> None:
        self.steps.stop(state)
        if self.state == "running" or (state == "cancelled" and self.state != "done" and not self._is_over()):
            self.state = state

    @rule(window=st.none() | st.integers(1, 5), retry_failed=st.booleans())
    def resume(self, window: int | None, retry_failed: bool) -> None:
        self.steps.resume(window=window, retry_failed=retry_failed)
        self.window = window or self.window
        if retry_failed:
            self.failed.clear()
        self.state = "running"

    @rule()
    def purge(self) -> None:
        """All messages in the queue are lost, and somebody goes on."""
        then = sum(one.task_id == "then" for one in self.steps.deliver_all())
        self.then += then
        self._heal()

    @invariant()
    def no_more_fly_than_the_window_has_room_for(self) -> None:
        flying = len(self.steps.flying)
        assert flying <= max(self.window, self.most_flying)
        self.most_flying = flying

    @invariant()
    def counters_add_up(self) -> None:
        fields = self.steps.fields
        assert self.steps.counts("done", "failed", "cached") == (len(self.done), len(self.failed), self.cached)
        ended = [int(one) for one in self.steps.ended() if one]
        assert sorted(ended) == sorted(self.done | self.failed)
        assert int(self.steps.redis.hlen(f"{self.steps.name.key}:outcomes")) == len(ended)
        assert (fields["state"] == "done") <= (len(ended) == self.total)
        if fields["state"] == "done":
            self.state = "done"
        assert fields["state"] == self.state
        assert all(self.steps.redis.ttl(key) > 0 for key in self.steps.all_keys())

    def teardown(self) -> None:
        """Whatever happened, it can be brought to its end, and then each item has ended once."""
        if not hasattr(self, "total"):
            return
        for _ in range(self.total * 4 + 8):
            self._heal()
            while (delivery := self.steps.deliver()) is not None:
                self.with_workers.append(delivery)
            for delivery in self.with_workers:
                if delivery.task_id == "then":
                    self.then += 1
                elif self.steps.take(delivery) is not None:
                    self.steps.settle(delivery)
            self.with_workers.clear()
            if self.steps.fields["state"] == "done":
                break
        assert self.steps.fields["state"] == "done"
        assert sum(self.steps.counts("done", "failed")) == self.total
        assert sorted(int(one) for one in self.steps.ended() if one) == list(range(self.total))
        assert [one.number for one in self.steps.ordered_page().outcomes] == list(range(self.total))
        self.then += len(self.steps.deliver_all())
        assert self.then == 1
        self.steps.redis.delete(*self.steps.all_keys())

    def _heal(self) -> None:
        held = {delivery.index for delivery in self.with_workers if delivery.task_id != "then"}
        queued = {json.loads(one)["task_id"].rpartition(".")[2] for one in self.steps.redis.lrange(LIST, 0, -1)}
        lost = tuple(index for index in self.steps.flying if index not in held and str(index) not in queued)
        self.steps.resume(lost=lost)
        self.state = "running"

    def _has_ended(self, delivery: Delivery) -> bool:
        return delivery.index in self.done | self.failed

    def _is_over(self) -> bool:
        return self.state == "failed" and not self.steps.flying

    def _note_failures(self, more: int) -> None:
        if more and self.state == "running" and 0 <= self.max_failed < len(self.failed):
            self.state = "failed"


def test_any_sequence_of_steps(settings: Settings):
    """Each item ends exactly once, and no more fly than the window has room for."""
    machine = type("Machine", (MapMachine,), {"settings": settings})
    run_state_machine_as_test(machine, settings=hypothesis.settings(max_examples=60, stateful_step_count=40))
