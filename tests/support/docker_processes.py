"""pytest-celery without Docker: a client whose "containers" are processes of this machine.

pytest-celery reaches Docker through one session fixture, `docker_client`. Only what it calls is here. What processes
cannot give: partitioned networks, memory limits, other versions of Celery, brokers other than Redis.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO
from uuid import uuid4

from kagura_tasks.embedded_redis import EmbeddedRedis, tied_to_this_process
from tests.support.workers import NOT_INHERITED, ROOT

#: The port of Redis inside its container, as /proc/net/tcp writes it (0A: it listens).
_LISTENS_ON_6379 = b"0: 0100007F:18EB 00000000:0000 0A\n"
_STOP_TIMEOUT_S = 10


class RedisProcess:
    """A "container" of the image redis."""

    def __init__(self, port: int) -> None:
        self._server = EmbeddedRedis(port=port).start()
        self._runs = True
        self.id = uuid4().hex
        self.name = f"redis-{port}"
        # Its name on the containers' network is the address that reaches it from everywhere on this machine.
        self.attrs = _attributes(f"127.0.0.1:{port}", {"6379/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]})

    @property
    def status(self) -> str:
        return "running" if self._runs else "exited"

    def reload(self) -> None:
        """The status is always fresh."""

    def logs(self) -> bytes:
        return self._server.log_file.read_bytes()

    def kill(self, signal: object = None) -> None:
        self._server.kill()
        self._runs = False

    def restart(self, timeout: int = _STOP_TIMEOUT_S) -> None:
        self._server.restart()
        self._runs = True

    def exec_run(self, command: str) -> tuple[int, bytes]:
        """The one command that is ever asked for: which ports does it listen on?"""
        assert command.startswith("cat /proc/net/tcp")
        return 0, _LISTENS_ON_6379 if self._runs else b""

    def remove(self, *, force: bool = False) -> None:
        self._server.stop()


class WorkerProcess:
    """A "container" of pytest-celery's worker image: `celery worker` in a folder with the app's code."""

    def __init__(self, folder: Path, command: list[str], environment: Mapping[str, str]) -> None:
        self.id = uuid4().hex
        self.name = f"worker-{self.id[:12]}"
        self.attrs = _attributes(self.id[:12], {})
        self._folder = folder
        self._log = folder / f"{self.name}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
        self._environment = {**inherited, **environment, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        # %h is the container's name, not this machine's: two workers need two names.
        self._command = [sys.executable, "-m", *(part.replace("%h", self.id[:12]) for part in command)]
        self._process = self._start()

    @property
    def status(self) -> str:
        return "running" if self._process.poll() is None else "exited"

    def reload(self) -> None:
        """The status is always fresh."""

    def logs(self) -> bytes:
        return self._log.read_bytes()

    def kill(self, signal: str | int | None = None) -> None:
        """As Docker does it: SIGKILL ends the whole container, another signal goes to its first process."""
        number = _signal_number(signal)
        (os.killpg if number == _signal_number(None) else os.kill)(self._process.pid, number)
        self._process.wait(_STOP_TIMEOUT_S)

    def restart(self, timeout: int = _STOP_TIMEOUT_S) -> None:
        self.remove(force=True)
        self._process = self._start()

    def remove(self, *, force: bool = False) -> None:
        if self._process.poll() is None:
            self.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                tied_to_this_process(self._command),
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Volume:
    """A folder that is filled by unpacking an archive into it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="kagura-volume-"))

    def put_archive(self, path: str, archive: BinaryIO) -> None:
        with tarfile.open(fileobj=archive) as members:
            members.extractall(self.folder, filter="data")

    def remove(self, force: bool = False) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class ProcessClient:
    """What pytest-celery takes for a `docker.DockerClient`."""

    def __init__(self) -> None:
        self._volumes: dict[str, Volume] = {}
        self.images = SimpleNamespace(build=lambda **_: (SimpleNamespace(id="celery-worker"), []))
        self.networks = SimpleNamespace(create=lambda name, **_: SimpleNamespace(name=name, remove=lambda: None))
        self.volumes = SimpleNamespace(create=self._create_volume)
        self.containers = SimpleNamespace(run=self._run, create=self._create)

    def _create_volume(self, name: str, **_: object) -> Volume:
        self._volumes[name] = Volume(name)
        return self._volumes[name]

    def _create(self, volumes: Mapping[str, object], **_: object) -> object:
        """A container that only exists to fill its volume."""
        volume = self._volumes[next(iter(volumes))]
        return SimpleNamespace(put_archive=volume.put_archive, remove=lambda force: None)

    def _run(self, image: str, **options: Any) -> RedisProcess | WorkerProcess:
        if "redis" in image:
            return RedisProcess(_free_port())
        volume = self._volumes[next(iter(options["volumes"]))]
        return WorkerProcess(volume.folder, options["command"], options["environment"])


def _attributes(hostname: str, ports: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """What `docker inspect` would say, as far as anybody asks."""
    network = {"Networks": {"host": {"IPAddress": "127.0.0.1"}}, "Ports": ports}
    return {"Config": {"Hostname": hostname}, "NetworkSettings": network, "HostConfig": {"PortBindings": {}}}


def _signal_number(name: str | int | None) -> int:
    return name if isinstance(name, int) else int(signal.Signals[name or "SIGKILL"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
