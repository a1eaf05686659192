"""Exceptions raised in another thread."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from kagura_tasks.worker.interruptible import Forsaken, Interruptible
from tests.support.wait import until
from tests.support.workers import ROOT


def in_thread(target: Callable[[], None]) -> threading.Thread:
    """A thread that runs it."""
    thread = threading.Thread(target=target)
    thread.start()
    return thread


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded, Forsaken])
def test_a_function_is_interrupted(error: type[SoftTimeLimitExceeded | Forsaken]):
    """The exception comes up in it, and can be caught like any other."""
    seen: list[object] = []
    function, inside = Interruptible(), threading.Event()

    def work() -> None:
        inside.set()
        while True:
            time.sleep(0.001)

    def runs() -> None:
        try:
            function.run(work)
        except error as caught:
            seen.append(caught)

    thread = in_thread(runs)
    assert inside.wait(10)
    function.interrupt(error)
    thread.join(10)
    assert len(seen) == 1


def test_what_is_not_in_the_function_is_not_interrupted():
    """Before it and after it an interruption does nothing."""
    function, ended, gate = Interruptible(), threading.Event(), threading.Event()
    seen: list[str] = []

    def runs() -> None:
        function.run(lambda: None)
        ended.set()
        gate.wait(10)
        seen.append("went on")

    function.interrupt(Forsaken)
    thread = in_thread(runs)
    assert ended.wait(10)
    function.interrupt(Forsaken)
    gate.set()
    thread.join(10)
    assert seen == ["went on"]


@pytest.mark.parametrize("interrupts", [0, 1, 2])
def test_a_process_can_be_traced_afterwards(interrupts: int):
    """Nothing is left pending in the interpreter: in 3.11, the first function that is traced would never end."""
    code = f"""
import sys, threading, time
from kagura_tasks.worker.interruptible import Forsaken, Interruptible

function, inside = Interruptible(), threading.Event()

def body():
    inside.set()
    time.sleep(0.05)  # what comes meanwhile is raised, or taken back, when it returns

def runs():
    try:
        function.run(body)
    except Forsaken:
        pass

thread = threading.Thread(target=runs)
thread.start()
inside.wait()
for _ in range({interrupts}):
    function.interrupt(Forsaken)
thread.join()
sys.settrace(lambda *_: None)
print((lambda: "traced")())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout == "traced\n"


def test_an_interruption_at_any_moment_stays_in_its_function():
    """Thousands of short functions, each interrupted at some moment: the thread goes on after every one."""
    current: list[Interruptible] = []
    ended, stopping = [0, 0], threading.Event()

    def runs() -> None:
        while not stopping.is_set():
            function = Interruptible()
            current[:] = [function]
            try:
                function.run(lambda: sum(range(100)))
            except SoftTimeLimitExceeded:
                ended[1] += 1
            ended[0] += 1

    thread = in_thread(runs)
    until(lambda: current, what="a function")
    while sum(ended) < 20_000 or not ended[1]:
        current[0].interrupt(SoftTimeLimitExceeded)
        assert thread.is_alive()
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()
