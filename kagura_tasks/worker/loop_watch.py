"""Notices when a task blocks the event loop, and says where."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from typing import Final

log = logging.getLogger(__name__)

_BEAT_S: Final = 0.25


class LoopWatch:
    """Watches one event loop from a thread of its own.

    Attributes:
        blocked_total: How often the loop was blocked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread, blocked_s: float) -> None:
        """Take the loop, the thread that it runs in, and how long (s) a loop does nothing that is blocked."""
        self.blocked_total = 0
        self._loop = loop
        self._loop_thread = thread
        self._blocked_s = blocked_s
        self._beat_at = time.monotonic()
        self._is_told = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kagura-loop-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._beat_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(_BEAT_S):
            try:
                self._loop.call_soon_threadsafe(self._beat)
            except RuntimeError:
                return  # the loop is closed
            self._look(time.monotonic() - self._beat_at)

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._is_told = False

    def _look(self, silent_s: float) -> None:
        """Once for each time that it is blocked."""
        if silent_s < self._blocked_s + _BEAT_S or self._is_told:
            return
        self._is_told = True
        self.blocked_total += 1
        log.warning("a task has blocked the event loop for %.1f s:\n%s", silent_s, self._stack())

    def _stack(self) -> str:
        """Where the loop's thread is: names of files and functions, no values."""
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] (documented, whatever its name)
        frame = frames.get(self._loop_thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else "(the thread has ended)"
