"""The steps of an item whose file is loaded first, each by itself: twice, late, and out of turn."""

from __future__ import annotations

import json

import pytest

from kagura_tasks import CompletionRequest, FileRow, Message, Settings
from kagura_tasks.files.asking import AskedFile
from kagura_tasks.maps.messages import ITEM, SENT, ListedMessage
from kagura_tasks.maps.store import StoredItem
from kagura_tasks.metrics.names import Series
from kagura_tasks.metrics.snapshot import read_snapshot
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.sources import WAITING
from kagura_tasks.worker import map_items
from kagura_tasks.worker.job import Delivery as WorkersDelivery
from kagura_tasks.worker.job import TakenAway
from tests.support.maps import LIST, Delivery, Steps, terms

ASKED = AskedFile(
    path="a", asks=(CompletionRequest(model="m", tenant="acme", messages=(Message(role="user", content="?"),)),)
)
ROW = FileRow(path="a", status="ok", size_bytes=1)


class FileSteps(Steps):
    """A map over files: its first messages are in the same list as its second ones, and say so in their tags."""

    def start_files(self, total: int, window: int = 2) -> FileSteps:
        """Upload so many files, and send the first ones."""
        WAITING.run(self.store.begin())
        WAITING.run(self.store.add(0, [StoredItem(json.dumps({"file": number}), "") for number in range(total)]))
        loaded = ListedMessage(LIST, json.dumps({"task_id": ITEM, "tag": f"loaded.{SENT}"}))
        made = terms(total, window)
        assert WAITING.run(self.store.start(type(made)(**{**vars(made), "loaded": loaded, "work": "{}"})))
        return self

    def take_file(self, delivery: Delivery) -> object:
        """What the task that loads gets; None where nobody wants it loaded."""
        try:
            return WAITING.run(
                map_items.take(self.settings, self.name, self.store.token, delivery.task_id, loads=True)
            ).request
        except TakenAway:
            return None

    def hand_on(self, delivery: Delivery, asked: AskedFile | None = ASKED) -> Tally:
        """The file was loaded, or with None could not be. What its task did."""
        whose = WorkersDelivery(delivery.task_id, delivery.tag, tally=Tally("kagura.load_file"))
        WAITING.run(map_items.hand_on(self.settings, self.name, self.store.token, whose, ROW, asked))
        return whose.tally


@pytest.fixture
def steps(settings: Settings) -> FileSteps:
    return FileSteps(settings)


def test_an_item_goes_on_with_another_message(steps: FileSteps):
    """In the same place of the window; the second task gets what is asked, and the row is kept."""
    first, second = steps.start_files(3).deliver_all()
    assert steps.take_file(first) == {"file": 0}
    steps.hand_on(first)
    (asking,) = steps.deliver_all()
    assert (asking.index, asking.tag.partition(".")[0]) == (0, "loaded")
    assert steps.take(asking) == json.loads(ASKED.to_json_text())
    assert WAITING.run(steps.store.rows([0, 1])) == [ROW.to_json_text().encode(), None]
    assert steps.flying == {0, 1}
    steps.settle(asking)
    assert [one.index for one in steps.deliver_all()] == [2]
    assert second.index == 1


def test_a_file_that_is_loaded_twice_goes_on_once(steps: FileSteps):
    """Its message came again after it had gone on: nothing is sent, and its place is not given away."""
    (first,) = steps.start_files(1).deliver_all()
    steps.hand_on(first)
    again = steps.redeliver(first)
    assert steps.take_file(again) is None
    steps.hand_on(again)
    assert len(steps.deliver_all()) == 1
    assert steps.flying == {0}


def test_what_loaded_a_file_is_counted_in_the_same_step(steps: FileSteps):
    """Once, by the model that is asked; a task that hands nothing on is not counted as one that did."""
    (first,) = steps.start_files(1).deliver_all()
    assert steps.hand_on(first).is_counted
    assert not steps.hand_on(steps.redeliver(first)).is_counted
    counted = read_snapshot(steps.settings).total[Series("acme", "m", "kagura.load_file")]
    assert (counted["done"], counted["handed_back"]) == (1, 0)


def test_a_worker_whose_message_was_given_away_hands_nothing_on(steps: FileSteps):
    """The one that has it now does."""
    (first,) = steps.start_files(1).deliver_all()
    again = steps.redeliver(first)
    steps.hand_on(first)
    assert steps.deliver() is None
    assert steps.take_file(again) == {"file": 0}
    steps.hand_on(again)
    assert len(steps.deliver_all()) == 1


def test_a_file_that_could_not_be_loaded_has_a_row_and_sends_nothing(steps: FileSteps):
    """Its outcome follows, from whatever keeps results."""
    (first,) = steps.start_files(1).deliver_all()
    steps.hand_on(first, None)
    assert (steps.deliver(), WAITING.run(steps.store.rows([0]))) == (None, [ROW.to_json_text().encode()])
    steps.settle(first, "failed")
    assert steps.counts("failed") == (1,)


def test_a_loaded_item_that_is_sent_again_is_not_loaded_again(steps: FileSteps):
    """Whether the map was paused, its message was lost, or it failed and is tried again."""
    (first,) = steps.start_files(1).deliver_all()
    steps.hand_on(first)
    (asking,) = steps.deliver_all()
    steps.stop("paused")
    assert steps.take(asking) is None
    steps.resume()
    (again,) = steps.deliver_all()
    assert (again.tag.partition(".")[0], steps.take(again)) == ("loaded", json.loads(ASKED.to_json_text()))
    steps.resume(lost=(0,))
    (lost,) = steps.deliver_all()
    assert lost.tag.startswith("loaded.")
    steps.settle(lost, "failed")
    steps.resume(retry_failed=True)
    assert steps.deliver_all()[0].tag.startswith("loaded.")


def test_a_file_that_is_loaded_while_its_map_is_stopped_waits(steps: FileSteps):
    """And is asked about once the map goes on."""
    (first,) = steps.start_files(1).deliver_all()
    steps.stop("cancelled")
    steps.hand_on(first)
    for one in steps.deliver_all():
        assert steps.take(one) is None
    steps.resume()
    (again,) = steps.deliver_all()
    assert steps.take(again) == json.loads(ASKED.to_json_text())


def test_all_that_is_kept_of_files_expires(steps: FileSteps):
    """What is left out is added before the start, like the items."""
    WAITING.run(steps.store.begin())
    assert WAITING.run(steps.store.leave_out(["{}"] * 3))
    steps.start_files(1)
    assert WAITING.run(steps.store.left_out(0)) == []
    (first,) = steps.deliver_all()
    steps.hand_on(first)
    assert all(steps.redis.ttl(key) > 0 for key in steps.all_keys())


def test_what_was_left_out_is_read_in_pages(steps: FileSteps):
    """All of it, in order."""
    WAITING.run(steps.store.begin())
    for start in (0, 300):
        assert WAITING.run(steps.store.leave_out([str(number) for number in range(start, start + 300)]))
    pages = [WAITING.run(steps.store.left_out(first)) for first in range(0, 800, 200)]
    assert [int(one) for page in pages for one in page] == list(range(600))
