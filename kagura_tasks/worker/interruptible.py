"""Exceptions raised in another thread: how a plain function hears of its time limit."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

T = TypeVar("T")

_raise_in: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc

#: A soft limit, and then the end: nobody needs more of them.
_MOST: Final = 2


class Forsaken(BaseException):
    """Nobody waits for this function any more."""


class _Over(BaseException):
    """The function has returned: what was to be raised in it is not."""


class Interruptible:
    """A function that another thread may interrupt, up to twice, once it has a thread of its own.

    Python raises the exception between two instructions of the function: a call that blocks (`sleep`, a socket) returns
    first. An interruption that comes when the function has returned, or not begun, does nothing.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._thread: int | None = None
        self._left = _MOST

    def interrupt(self, error: type[SoftTimeLimitExceeded | Forsaken]) -> None:
        """Raise it in the function."""
        with self._guard:
            if self._thread is not None and self._left:
                self._left -= 1
                _raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(error))

    def run(self, function: Callable[[], T]) -> T:
        """What the function returns. Raises what it raises, or the interruption; after that, none comes any more."""
        try:
            self._thread = threading.get_ident()
            return function()
        finally:
            # Each interruption may come in here, too, before anything is done: of one `_end` more, one gets through.
            try:
                self._end()
            finally:
                try:
                    self._end()
                finally:
                    self._end()

    def _end(self) -> None:
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is not None and self._left < _MOST:
            _take_back(thread)


def _take_back(thread: int) -> None:
    """What was not raised yet in the calling thread is not raised any more: another takes its place, and is caught.

    Python has a call that takes it back as well. But it leaves a flag set for the whole process, which only a raised
    exception clears: everything is slower from then on, and Python 3.11 never leaves the first function that a debugger
    or a coverage tool traces.
    """
    try:
        _raise_in(ctypes.c_ulong(thread), ctypes.py_object(_Over))
        while True:
            pass
    except _Over:
        return
