"""Ctrl-C, where it would come at a bad moment."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def ctrl_c_waits() -> Generator[None]:
    """Ctrl-C in this block raises KeyboardInterrupt at its end, whatever else the block raises.

    For what must not be left half done, and soon ends by itself.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # whoever ignores it (nohup) goes on doing so
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if arrived:
            raise KeyboardInterrupt
