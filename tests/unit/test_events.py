"""The worker's events, for Flower: how they leave."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from celery.worker import state
from kombu.asynchronous import Hub

from kagura_tasks.worker.consumer import Consumer

#: Longer than events wait; hubs turn without sleeping here.
_A_WHILE_S = 0.3


class Sent:
    """Celery's event dispatcher, as far as the consumer uses it."""

    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def consumer() -> Any:
    """A consumer that has a hub and no broker."""
    made: Any = Consumer.__new__(Consumer)
    made.hub, made.event_dispatcher = Hub(), Sent()
    made._flush_events_promise = made._flush_events
    yield made
    made.hub.close()


def turn(hub: Hub) -> None:
    """Let the hub's callbacks and timers run for a while."""
    until = time.monotonic() + _A_WHILE_S
    while time.monotonic() < until:
        for callback in hub._pop_ready():
            callback()
        hub.fire_timers(max_timers=1)
        time.sleep(0.01)


def test_the_events_of_many_tasks_leave_together(consumer: Any):
    """Celery's own would send a message for each turn of its loop."""
    for _ in range(50):
        consumer.on_send_event_buffered()
    assert consumer.event_dispatcher.flushes == 0
    turn(consumer.hub)
    assert consumer.event_dispatcher.flushes == 1


def test_events_of_the_pools_threads_leave_as_well(consumer: Any):
    """And those after them."""
    for expected in (1, 2):
        thread = threading.Thread(target=consumer.on_send_event_buffered)
        thread.start()
        thread.join()
        turn(consumer.hub)
        assert consumer.event_dispatcher.flushes == expected


def test_a_worker_that_stops_does_not_wait_to_send_them(consumer: Any, monkeypatch: pytest.MonkeyPatch):
    """Nobody would fire the timer."""
    monkeypatch.setattr(state, "should_stop", 0)
    consumer.on_send_event_buffered()
    for callback in consumer.hub._pop_ready():
        callback()
    assert consumer.event_dispatcher.flushes == 1
