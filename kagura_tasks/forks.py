"""What a forked child must not have in common with its parent."""

from __future__ import annotations

import os
from threading import Lock
from typing import Final, Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """What a forked child finds in its memory, and cannot use as it is."""

    def on_fork(self) -> None:
        """In the child: let go of what is the parent's, as are threads, files and sockets."""
        ...


_known: Final = WeakSet[Inherited]()


def watch_forks(one: Inherited) -> None:
    """Call its `on_fork` in every forked child, for as long as it lives."""
    _known.add(one)


class ProcessLock:
    """A lock between threads, for `with`. In a forked child nobody holds it, as none of those threads is there."""

    def __init__(self) -> None:
        """Nobody holds it."""
        self.on_fork()
        watch_forks(self)

    def __enter__(self) -> None:
        """Wait until nobody else holds it."""
        _ = self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Let another one have it."""
        self._lock.release()

    def on_fork(self) -> None:
        """See Inherited."""
        self._lock = Lock()


def _tell_all() -> None:
    for one in list(_known):
        one.on_fork()


os.register_at_fork(after_in_child=_tell_all)
