"""`kagura-tasks up`: everything runs, what dies comes back, and nothing outlives it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest

from kagura_tasks.settings import RedisUrl
from tests.integration.test_cli import Started, all_gone, document, kagura, program, started, the_error
from tests.support.llm import LlmServer
from tests.support.wait import until


@pytest.fixture
def keys(llm: LlmServer) -> dict[str, str]:
    """What the workers need to reach the scripted provider."""
    return {"OPENAI_API_KEY": "test", "OPENAI_API_BASE": llm.base_url}


def temporary_folders(running: Started) -> list[Path]:
    """Those of the server and of the logs."""
    folders = {Path(str(file.path)).parent for child in running.family() for file in child.open_files()}
    return [folder for folder in folders if folder.name.startswith(("kagura-redis-", "kagura-tasks-"))]


def flowers_page(url: str) -> str:
    """Flower's list of workers: each is on it from its first event on."""
    return build_opener(ProxyHandler({})).open(f"{url}/workers", timeout=60).read().decode()


def test_up_and_ctrl_c(llm: LlmServer, keys: dict[str, str], tmp_path: Path):
    """A server, workers and Flower; a prompt is answered; a killed worker comes back; Ctrl-C leaves nothing behind."""
    llm.reply("Hello.")
    with started(tmp_path, "up", "--workers", "2", "--json", environment=keys) as running:
        told = json.loads(running.printed("\n}\n"))
        assert document(kagura("run", "Hi", "--json", redis_url=told["redis_url"]))["text"] == "Hello."
        assert told["flower_url"].startswith("http://127.0.0.1:")
        names = [worker["name"] for worker in told["workers"]]
        until(lambda: all(name in flowers_page(told["flower_url"]) for name in names), 60, "both workers in Flower")

        psutil.Process(told["workers"][0]["pid"]).send_signal(signal.SIGKILL)
        until(lambda: "was ended by SIGKILL: starting it again in 1 s" in running.stderr, 60, "the line that says so")
        until(lambda: len(running.family()) >= 4, 60, "another worker")

        family, folders = running.family(), temporary_folders(running)
        assert running.stop(signal.SIGINT) == 0
    all_gone(family)
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)
    assert "Traceback" not in running.stderr


def test_nothing_outlives_kill_9(keys: dict[str, str], tmp_path: Path):
    """People are told what another terminal needs; and where `up` cannot say goodbye, server and worker end, too."""
    with started(tmp_path, "up", "--workers", "1", "--no-flower", environment=keys) as running:
        shown = running.printed("Ctrl-C stops everything")
        assert re.search(r"^  export KAGURA_TASKS_REDIS_URL='unix:///.*'$", shown, re.MULTILINE)
        assert re.search(r"^Worker   worker-1@", shown, re.MULTILINE)
        assert re.search(r"^Keys     OPENAI_API_KEY$", shown, re.MULTILINE)
        family = running.family()
        assert len(family) == 2
        folders = temporary_folders(running)
        running.stop(signal.SIGKILL)
    all_gone(family)
    for folder in folders:  # nobody was left to do it
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_end_while_it_starts(number: signal.Signals, tmp_path: Path):
    """Whatever has been started by then is stopped: exit code 130."""
    with started(tmp_path, "up", "--no-flower") as running:
        family = until(lambda: len(running.family()) == 3 and running.family(), 60, "a server and two workers")
        assert running.stop(number) == 130
        assert "Traceback" not in running.stderr
    all_gone(list(family))


def test_on_a_redis_of_the_users_it_starts_none(redis_url: RedisUrl, tmp_path: Path):
    """Only a worker runs, under a name that is nobody else's on that Redis."""
    with started(tmp_path, "up", "--workers", "1", "--no-flower", redis_url=redis_url) as running:
        name = f"--hostname=worker-1-{running.process.pid}@{socket.gethostname()}"
        until(lambda: [name in child.cmdline() for child in running.family()] == [True], 60, "the worker alone")
        assert running.stop() == 130


def test_a_worker_that_cannot_start_is_explained(tmp_path: Path):
    """The end of its log, then one line; nothing keeps running."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise RuntimeError('these are not the workers')\n")
    with started(tmp_path, "up", "--workers", "1", "--no-flower", cwd=tmp_path) as running:
        assert running.process.wait(90) == 1
    lines = running.stderr.splitlines()
    assert any("these are not the workers" in line for line in lines if line.startswith("  | "))
    assert lines[-1].startswith("error: worker-1@")
    assert "before it was ready" in lines[-1]


def test_a_taken_port_of_flower_is_one_line():
    """The line names the option that helps."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = the_error(program("up", "--flower-port", str(listener.getsockname()[1])))
    assert "--flower-port" in error
