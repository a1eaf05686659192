"""What the bodies of jobs tell: when the first one started, and how many have run."""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path
from typing import Final

#: Names the file, for the worker.
VARIABLE: Final = "BENCHMARKS_BODIES"

_FIRST_START, _COUNT = 0, 1
_BYTES: Final = 16


class Bodies:
    """Two numbers in memory that the worker and the benchmark share: a body pays next to nothing for it."""

    def __init__(self, file: Path) -> None:
        """Share the memory behind the file, which `create` has made."""
        with file.open("r+b") as opened:
            self._numbers = memoryview(mmap.mmap(opened.fileno(), _BYTES)).cast("Q")
        self._lock = threading.Lock()

    @classmethod
    def create(cls, file: Path) -> Bodies:
        """For the benchmark, before the worker starts. Keeps what is there: a worker may run already."""
        if not file.exists():
            file.write_bytes(bytes(_BYTES))
        return cls(file)

    @classmethod
    def of_this_worker(cls) -> Bodies:
        """For the worker."""
        return cls(Path(os.environ[VARIABLE]))

    def note(self) -> None:
        """A body starts. In one process of the worker only."""
        with self._lock:
            if not self._numbers[_FIRST_START]:
                self._numbers[_FIRST_START] = time.monotonic_ns()
            self._numbers[_COUNT] += 1

    def reset(self) -> None:
        """Start anew, while no body runs."""
        self._numbers[_FIRST_START] = self._numbers[_COUNT] = 0

    @property
    def count(self) -> int:
        """How many have started."""
        return self._numbers[_COUNT]

    @property
    def first_start_s(self) -> float:
        """When the first one started, on the clock of `time.monotonic`, which all processes share."""
        return self._numbers[_FIRST_START] / 1e9
