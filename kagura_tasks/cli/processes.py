"""Programs that a command starts, watches and stops. None outlives the command, however it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from kagura_tasks.embedded_redis import tied_to_this_process
from kagura_tasks.errors import KaguraTasksError

_POLL_S: Final = 0.05
#: A worker imports LiteLLM before it is ready: seconds of CPU, and several of them start at once.
_START_TIMEOUT_S: Final = 120.0
#: What a worker needs (s) beside the time that it gives its calls: to hand back what is left, and to say goodbye.
_GOODBYE_S: Final = 15.0

_FIRST_RESTART_S: Final = 1.0
_LAST_RESTART_S: Final = 30.0
#: Whoever ran for so long (s) has not died of what it was started with.
_SETTLED_S: Final = 60.0


class StartFailed(KaguraTasksError):
    """A program ended before it was ready, or did not become ready in time.

    Attributes:
        log_lines: The last lines that it wrote.
    """

    def __init__(self, message: str, log_lines: list[str]) -> None:
        """Take what happened, and the last lines of the program's log."""
        super().__init__(message)
        self.log_lines = log_lines


@dataclass(frozen=True)
class Program:
    """Something to run.

    Attributes:
        name: What people call it.
        command: Its arguments; the program itself by its absolute path.
        environment: All of its environment.
        is_ready: Tells from what it wrote since its start whether it is at work.
        folder: Where it runs; None is where we run.
        has_log: What it writes goes to a file of its own; otherwise it goes where ours goes.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    is_ready: Callable[[str], bool]
    folder: Path | None = None
    has_log: bool = True


class RunningProgram:
    """One program: the process that runs it, or the next one after it died. All of them write to one log."""

    def __init__(self, program: Program, log: Path) -> None:
        """Start it."""
        self.program = program
        self._log = log
        self._deaths = 0
        self._restart_at: float | None = None
        self._process = self._launch()

    @property
    def name(self) -> str:
        """What people call it."""
        return self.program.name

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """The process is gone."""
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        """What the process wrote."""
        if not self.program.has_log:
            return ""
        return self._log.read_bytes()[self._log_start :].decode("utf-8", "replace")

    def is_ready(self) -> bool:
        """It is at work. Raises StartFailed where it has ended instead."""
        if self.has_ended:
            raise StartFailed(f"{self.name} {self._how_it_ended()} before it was ready", self.last_lines())
        return self.program.is_ready(self.output)

    def last_lines(self, count: int = 12) -> list[str]:
        """The end of what the process wrote."""
        lines = [line.rstrip() for line in self.output.splitlines()]
        return [line for line in lines if line][-count:]

    def revive(self, say: Callable[[str], None]) -> None:
        """Start it again if it has ended and its time has come; says so once each time."""
        if self._restart_at is None:
            if self.has_ended:
                self._plan_restart(say)
        elif time.monotonic() >= self._restart_at:
            self._restart_at = None
            self._bury()
            self._process = self._launch()

    def terminate(self) -> None:
        """Ask it to finish."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now, and whatever it started."""
        if not self.has_ended:
            os.killpg(self.pid, signal.SIGKILL)
        self._bury()

    def wait(self, timeout_s: float) -> None:
        """Return when the process is gone, or after this time."""
        with suppress(subprocess.TimeoutExpired):
            _ = self._process.wait(timeout_s)

    def _launch(self) -> subprocess.Popen[bytes]:
        self._started_at = time.monotonic()
        if not self.program.has_log:
            return self._start(None)
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            return self._start(log)

    def _start(self, log: BinaryIO | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            tied_to_this_process(self.program.command),
            cwd=self.program.folder,
            env=dict(self.program.environment),
            # Never written to: it ends with us, for programs that look.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            # Ctrl-C in a terminal is for us alone: we stop the others in order.
            start_new_session=True,
        )

    def _bury(self) -> None:
        """Wait for the end of a process that is as good as gone, and close our end of its standard input."""
        _ = self._process.communicate()

    def _plan_restart(self, say: Callable[[str], None]) -> None:
        if time.monotonic() - self._started_at > _SETTLED_S:
            self._deaths = 0
        delay_s = restart_delay_s(self._deaths)
        self._deaths += 1
        self._restart_at = time.monotonic() + delay_s
        where = f" (its log: {self._log})" if self.program.has_log else ""
        say(f"{self.name} {self._how_it_ended()}: starting it again in {delay_s:g} s{where}")

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Programs:
    """A context manager: whatever was started in it is stopped when it is left. For the main thread alone."""

    def __init__(self, patience_s: float) -> None:
        """Start nothing yet. What runs may be finished for so long after the first Ctrl-C: see `patience_s`."""
        self._patience_s = patience_s
        self.folder = Path(tempfile.mkdtemp(prefix="kagura-tasks-"))
        self._running: list[RunningProgram] = []

    def start(self, program: Program) -> RunningProgram:
        """Start a program; see `wait_until_ready`."""
        log = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', program.name.lower())}.log"
        running = RunningProgram(program, log)
        self._running.append(running)
        return running

    def wait_until_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when all are at work. Raises StartFailed, with the log of the one that is not."""
        deadline = time.monotonic() + timeout_s
        waiting = list(self._running)
        while waiting:
            waiting = [running for running in waiting if not running.is_ready()]
            if waiting and time.monotonic() > deadline:
                first = waiting[0]
                raise StartFailed(f"{first.name} was not ready within {timeout_s:g} s", first.last_lines())
            time.sleep(_POLL_S)

    def watch(self, say: Callable[[str], None], also: Callable[[], None] | None = None) -> None:
        """Start again what dies, until Ctrl-C: then KeyboardInterrupt is raised. `also` is called all the time."""
        while True:
            for running in self._running:
                running.revive(say)
            if also is not None:
                also()
            time.sleep(_POLL_S * 4)

    def stop(self) -> None:
        """Ask all to finish, and end those that take too long; at once on another Ctrl-C."""
        try:
            for running in self._running:
                running.terminate()
            deadline = time.monotonic() + self._patience_s
            for running in self._running:
                running.wait(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            pass  # somebody is in a hurry
        finally:
            for running in self._running:
                running.kill()
            self._running.clear()

    def __enter__(self) -> Self:
        """Nothing is started by this alone."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop everything, and remove the logs."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def ends_like_ctrl_c() -> Generator[None]:
    """In this block SIGTERM and SIGHUP (a terminal that is closed) raise KeyboardInterrupt, as Ctrl-C does."""
    # Whoever ignores one (nohup) goes on doing so.
    mine = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in mine}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def patience_s(shutdown_timeout_s: float) -> float:
    """Seconds that a worker has to end; longer than it takes to hand back what will not end in time."""
    return shutdown_timeout_s + _GOODBYE_S


def restart_delay_s(deaths: int) -> float:
    """Seconds to wait before what died is started again, after so many deaths before it."""
    return min(_LAST_RESTART_S, _FIRST_RESTART_S * 2 ** min(deaths, 10))
