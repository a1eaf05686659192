"""A file by which Docker and Kubernetes see that a worker takes tasks: looking at its age costs next to nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import heartbeat_sent

log = logging.getLogger(__name__)


class HeartbeatFile:
    """The file: as old as the last time at which the worker's main loop turned while it had its broker."""

    def __init__(self, path: str) -> None:
        """Take where it is. Nothing is written yet."""
        self._path = Path(path)
        self._is_told = False

    def touch(self) -> None:
        """Make it new. A disk that is full is told of once, and ends no worker."""
        try:
            self._path.touch()
            self._is_told = False
        except OSError as error:
            if not self._is_told:
                log.warning("the heartbeat file cannot be written (%s): health checks will fail", type(error).__name__)
            self._is_told = True


def keep_heartbeat_file(app: Celery, path: str | None) -> None:
    """Let the app's workers touch the file, if one is wanted, with each heartbeat: every 2 s while they are connected.

    To be called before a worker starts: Celery looks only once whether anybody listens.
    """
    if not path:
        return
    file = HeartbeatFile(path)

    def beat(sender: Any = None, **_: object) -> None:
        if getattr(getattr(sender, "eventer", None), "app", None) is app:
            file.touch()

    # Not weak: nobody else keeps this function alive.
    heartbeat_sent.connect(beat, weak=False)
