"""Whatever happens to a map, and in whatever order: each item ends exactly once."""

from __future__ import annotations

import json

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kagura_tasks import Settings
from tests.support.maps import LIST, Delivery, Steps


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
