"""What a parser's process may use. It says so itself, before it reads anything; no file outlives its limits."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Final

#: How it ends when it has more memory than it may.
MEMORY_EXIT: Final = 86

_LOOK_S: Final = 0.1

#: Seconds after which the system itself ends a parser that nobody ended: its parent died, and it holds the interpreter.
_GRACE_S: Final = 5.0

#: Where Linux says it. There, `ru_maxrss` begins with the memory of the parent, which may be a worker's.
_STATUS: Final = Path("/proc/self/status")
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


def confine(parent: int, memory_bytes: int) -> None:
    """Bound this process for its whole life: memory, files, what it leaves behind, and to the life of its parent."""
    # On macOS RLIMIT_AS is not kept, hence the thread, which looks at what is really used, on every system.
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for ending in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(ending, signal.SIG_DFL)
    Thread(target=_watch, args=(parent, memory_bytes), daemon=True, name="watch").start()


def bound_time(limit_s: float) -> None:
    """Let the system end this process when one file has taken far too long, whatever its parent does."""
    signal.setitimer(signal.ITIMER_REAL, limit_s + _GRACE_S)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError, OSError):
        most_s = math.ceil(usage.ru_utime + usage.ru_stime + limit_s + _GRACE_S)
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, hard))


def unbound_time() -> None:
    """Waiting for the next file may take as long as it likes."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def peak_memory_bytes() -> int:
    """The most memory that this process has used."""
    return _status("VmHWM")


def held_memory_bytes() -> int:
    """The memory that this process holds, used or not: what RLIMIT_AS counts."""
    return _status("VmSize")


def _status(name: str) -> int:
    try:
        with _STATUS.open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _watch(parent: int, memory_bytes: int) -> None:
    while os.getppid() == parent:
        if peak_memory_bytes() > memory_bytes:
            os._exit(MEMORY_EXIT)
        time.sleep(_LOOK_S)
    os._exit(0)
