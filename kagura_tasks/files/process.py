"""A parser's process, as its parent sees it: one file at a time, within a time, and ended when it does not keep it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Final, cast

from kagura_tasks.errors import FileError, ParserDied, ParserTimeout, rebuild
from kagura_tasks.files.confine import MEMORY_EXIT
from kagura_tasks.files.frames import Garbled, HungUp, receive_answer, send_question
from kagura_tasks.files.limits import FileLimits

#: What a parser may know of its parent's environment. A key is not among it.
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")

#: Each arena of glibc's takes 64 MB of the address space that a parser may have.
_ONE_ARENA: Final = {"MALLOC_ARENA_MAX": "1", "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}

#: After so many files a new process takes over: libraries leak.
_MAX_FILES: Final = 200

#: Seconds until a new process has to have started; its first file's time begins after that.
_START_S: Final = 30.0

_PACKAGES: Final = str(Path(__file__).resolve().parents[2])


class ParserProcess:
    """One process that parses. Not to be shared by threads; but any thread may end it."""

    def __init__(self, limits: FileLimits) -> None:
        """Start it. Raises OSError where the system gives no further process."""
        self._limits = limits
        self._files = 0
        self._memory_bytes = 0
        self._ending = Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _started(theirs.fileno(), limits.parse_memory_bytes)
            except OSError:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_used(self) -> bool:
        """It has had more than one file."""
        return self._files > 1

    @property
    def is_usable(self) -> bool:
        """It lives, and has not had so many files, and does not hold so much memory, that a new one is better."""
        is_lean = self._memory_bytes < self._limits.parse_memory_bytes / 2
        return self._files < _MAX_FILES and is_lean and self._process.poll() is None

    def parse(self, file: int, path: str, media_type: str) -> dict[str, object]:
        """The fields of the document. The file's descriptor stays the caller's. Blocks.

        Raises:
            FileError: What the loader found wrong with the file.
            ParserTimeout: It took longer than it may. The process is dead.
            ParserDied: It crashed, took too much memory, or answered nonsense. The process is dead.
        """
        question: dict[str, object] = {"path": path, "media_type": media_type, "limits": asdict(self._limits)}
        starting_s = 0.0 if self._files else _START_S
        self._files += 1
        limit_s = self._limits.parse_timeout_s
        try:
            send_question(self._socket, question, file)
            started = self._wait_until_started(time.monotonic() + starting_s) if starting_s else time.monotonic()
            answer = receive_answer(self._socket, self._limits.max_answer_bytes, started + limit_s)
            return self._understood(answer, path)
        except TimeoutError:
            self.end()
            raise ParserTimeout(path, limit_s) from None
        except (HungUp, Garbled) as error:
            raise ParserDied(path, self._end_in_words(error)) from None
        except ParserDied:  # it says so itself, as long as it can
            self.end()
            raise

    def end(self) -> None:
        """Kill it, and wait until it is gone. What it was parsing gets ParserDied. Twice is fine."""
        with self._ending:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
                self._process.wait()
            # Whoever reads from it has to find its end, and the descriptor must not be another's before that.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, and let go of its descriptor. Nobody may be parsing."""
        self.end()
        self._socket.close()

    def abandon(self) -> None:
        """After a fork, in the child: the process is the parent's."""
        self._socket.close()
        self._process.returncode = 0

    def _wait_until_started(self, deadline: float) -> float:
        _ = receive_answer(self._socket, 100, deadline)
        return time.monotonic()

    def _understood(self, answer: dict[str, object], path: str) -> dict[str, object]:
        error, document, held = (answer.get(name) for name in ("error", "document", "memory_bytes"))
        self._memory_bytes = held if isinstance(held, int) else self._limits.parse_memory_bytes
        if isinstance(document, dict):
            return cast("dict[str, object]", document)
        raise _file_error(error, path)

    def _end_in_words(self, error: HungUp | Garbled) -> str:
        if isinstance(error, Garbled):
            self.end()
            return str(error)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)  # it hung up: it is about to be gone
        code = self._process.poll()
        self.end()
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}: it crashed, or took too much memory or time"
        return "out of memory" if code == MEMORY_EXIT else f"exit code {code}"


def _file_error(told: object, path: str) -> FileError:
    """The error in an answer, about this file and no other. Raises Garbled where there is none."""
    fields = cast("dict[str, object]", told) if isinstance(told, dict) else {}
    kind, args = fields.get("type"), fields.get("args")
    if isinstance(kind, str) and isinstance(args, list) and args:
        error = rebuild(kind, [path, *cast("list[object]", args)[1:]])
        if isinstance(error, FileError):
            return error
    raise Garbled("its answer has neither a document nor an error of a file")


def _started(socket_fd: int, memory_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "kagura_tasks.files.child", str(os.getpid()), str(memory_bytes)],
        stdin=socket_fd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        # Ctrl-C in a terminal is for the parent, which ends this one.
        process_group=0,
    )


def _environment() -> dict[str, str]:
    found = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    paths = [path for path in found.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**found, **_ONE_ARENA, "PYTHONPATH": os.pathsep.join([*paths, _PACKAGES])}
