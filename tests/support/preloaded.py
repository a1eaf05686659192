"""Processes that start in a moment: forked by one that has imported what they need, once for all of them.

A worker that is started the usual way spends seconds of CPU on imports. A forked one is a process like that one, with a
session, an environment, arguments and a log of its own. It is a child of this process and dies with it. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_PROGRAM: Final = "tests.support.preloaded_server"
_PR_SET_CHILD_SUBREAPER: Final = 36
_POLL_S: Final = 0.01
_GONE: Final = "the process that forks is gone, or did not start: see what it wrote"


@dataclass(frozen=True)
class Order:
    """A process that is wanted.

    Attributes:
        module: What it runs, as `python -m` does.
        arguments: What follows on the command line.
        environment: All of its variables.
        log: Takes what it writes.
    """

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: str


class AdoptedProcess:
    """A child of this process that another one forked: what `subprocess.Popen` has, as far as anybody asks."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """How it ended: its exit code, or the negative number of a signal. None: it has not."""
        with self._waiting:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(_POLL_S)
        return code

    def terminate(self) -> None:
        """Ask it to end. Does nothing where it has."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Preloaded:
    """The process that forks; see preloaded_server.py. It ends with this one, and when it is closed."""

    def __init__(self, folder: Path, environment: Mapping[str, str], modules: Sequence[str] = ()) -> None:
        """Start it in the folder where all its processes will run, and let it import the modules.

        What these read from the environment as they are imported, they read from this one, for all its processes.
        """
        self._ordering = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, *modules],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def start(self, order: Order) -> AdoptedProcess:
        """The process that was ordered. Raises RuntimeError where nobody is left to fork it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({**asdict(order), "owner": os.getpid()}).encode() + b"\n"
        # Somebody may read it before the process is there to write.
        Path(order.log).touch()
        with self._ordering, _adopting():
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except BrokenPipeError:
                raise RuntimeError(_GONE) from None
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(_GONE)
        return AdoptedProcess(int(answer))

    def close(self) -> None:
        """End it. What it forked goes on."""
        self._process.communicate()


@contextmanager
def _adopting() -> Generator[None]:
    """In here, Linux makes this process the parent of those below it whose own parent ends; it is `init` otherwise."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
