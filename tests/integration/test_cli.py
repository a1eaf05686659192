"""`kagura-tasks` as a program: what it prints, on which stream, with which exit code. Also the other tests' means."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from kagura_tasks import __version__
from kagura_tasks.cli import main
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import load_settings
from tests.support.wait import until

PROGRAM = str(Path(sys.executable).with_name("kagura-tasks"))


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def kagura(
    *arguments: str, stdin: str | bytes = "", environment: dict[str, str] | None = None, redis_url: str = ""
) -> Done:
    """Run the program's `main` to its end, in this process: a new one costs more than most commands."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = io.StringIO(), io.StringIO()
    load_settings.cache_clear()
    with (
        patch.dict(os.environ, _environment(redis_url, environment)),
        patch.object(sys, "argv", [PROGRAM, *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given))),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    load_settings.cache_clear()
    code = ended.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def program(*arguments: str, environment: dict[str, str] | None = None, redis_url: str = "") -> Done:
    """Run the program to its end."""
    done = subprocess.run(
        [PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(redis_url, environment),
        timeout=100,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def document(done: Done) -> dict[str, Any]:
    """The one JSON document that a command printed; it succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def the_error(done: Done) -> str:
    """The one line that says why a command failed."""
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


class Started:
    """The program while it runs, with what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    def printed(self, text: str, timeout_s: float = 90) -> str:
        """Everything on standard output, once the text is there."""

        def is_there() -> bool:
            assert self.process.poll() is None or text in self.stdout, self.stderr
            return text in self.stdout

        until(is_there, timeout_s, f"{text!r} on standard output")
        return self.stdout

    def family(self) -> list[psutil.Process]:
        """All processes that it started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def started(
    folder: Path,
    *arguments: str,
    redis_url: str = "",
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Generator[Started]:
    """Start the program; it is killed at the end of the block."""
    # Whoever runs the tests in the background, or under nohup, ignores these, and a child would inherit that.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=_environment(redis_url, environment),
            start_new_session=True,
        )
    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        yield Started(process, folder)
    finally:
        process.kill()
        process.wait()


def is_gone(process: psutil.Process) -> bool:
    """It does not run any more; whoever adopted it may not have buried it yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs."""
    until(lambda: all(map(is_gone, processes)), 60, "the end of every process")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(redis_url: str, more: dict[str, str] | None) -> dict[str, str]:
    ours = {"KAGURA_TASKS_REDIS_URL": redis_url} if redis_url else {}
    return {**os.environ, **ours, **(more or {})}


def test_the_version_is_the_packages():
    """For people and for machines."""
    assert program("version").stdout == f"{__version__}\n"
    assert document(kagura("version", "--json")) == {"version": __version__}


@pytest.mark.parametrize("command", [["run", "hi"], ["cache", "stats"], ["up"]])
def test_redis_away_is_one_line(command: list[str]):
    """The line names the address without its password, and nothing of Celery's or redis-py's is beside it."""
    port = free_port()
    error = the_error(program(*command, redis_url=f"redis://user:pa55word@127.0.0.1:{port}/0"))
    assert f"redis://***@127.0.0.1:{port}/0" in error
    assert "pa55word" not in error


def test_a_redis_that_hangs_is_given_up():
    """A server that takes the connection and says nothing costs less than five seconds."""
    # Once before the clock runs: how long imports take is this machine's affair.
    the_error(kagura("run", "hi", redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    with EmbeddedRedis() as server:
        server.pause()
        began = time.monotonic()
        error = the_error(kagura("run", "hi", redis_url=server.url))
        assert time.monotonic() - began < 5
    assert "no answer in time" in error


def test_another_server_on_the_port_is_no_redis():
    """Whatever answers there in words of its own is said to be none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with subprocess.Popen(
            [PROGRAM, "run", "hi"], stderr=subprocess.PIPE, env=_environment(f"redis://127.0.0.1:{port}", None)
        ) as process:
            listener.settimeout(60)
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                assert process.stderr is not None
                told = process.stderr.read().decode()
    assert process.returncode == 1
    assert told.startswith(f"error: redis://127.0.0.1:{port} refuses us, or is no Redis")
    assert told.count("\n") == 1


def test_a_wrong_setting_is_one_line():
    """It names the variable and what is allowed, and keeps the value to itself."""
    error = the_error(kagura("run", "hi", redis_url="http://user:pa55word@host"))
    assert "KAGURA_TASKS_REDIS_URL" in error
    assert "redis://" in error
    assert "pa55word" not in error


def test_a_reader_that_leaves_is_no_failure_of_ours():
    """`kagura-tasks ... | head -n 1` prints no traceback."""
    command = f"'{PROGRAM}' --help | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr
