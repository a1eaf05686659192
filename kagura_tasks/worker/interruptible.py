"""Exceptions raised in another thread: how a plain function hears of its time limit."""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from typing import Final

from celery.exceptions import SoftTimeLimitExceeded

_raise_in: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Forsaken(BaseException):
    """Nobody waits for this function any more."""


class Interruptible:
    """A block of code that another thread may interrupt, once it has a thread of its own.

    Python raises the exception between two instructions of the block: a call that blocks (`sleep`, a socket) returns
    first. An interruption that comes when the block has ended, or not begun, does nothing.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._thread: int | None = None

    def interrupt(self, error: type[SoftTimeLimitExceeded | Forsaken]) -> None:
        """Raise it in the block."""
        with self._guard:
            if self._thread is not None:
                _raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(error))

    def __enter__(self) -> None:
        self._thread = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        # An interruption may come in here as well: too late, since the block has its outcome.
        while self._thread is not None:
            with suppress(SoftTimeLimitExceeded, Forsaken), self._guard:
                thread, self._thread = self._thread, None
                _raise_in(ctypes.c_ulong(thread), None)  # takes back what was not raised yet
