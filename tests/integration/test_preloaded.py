"""What forks the tests' workers, and the processes that come out of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kagura_tasks.embedded_redis import tied_to_this_process
from tests.support.preloaded import AdoptedProcess, Order, Preloaded
from tests.support.wait import until
from tests.support.workers import ROOT, WorkerOptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, workers are started the usual way")

PROGRAM = "tests.support.spoken"

#: What a process knows of itself.
FACTS = """
import json, os, signal, tempfile, threading
code, *arguments = sys.argv[1:]
print(json.dumps({
    "runs": [__name__, sys.modules["__main__"].__spec__.name, sys.argv[0], arguments, sys.path, repr(sys.flags)],
    "is": [os.getppid(), os.getsid(0) == os.getpgid(0) == os.getpid(), os.getcwd(), dict(os.environ)],
    "files": {number: os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")[:-1]},
    "signals": {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "temporary": tempfile.gettempdir(),
    "threads": threading.active_count(),
}, sort_keys=True))
"""

SLEEPS = "import time; print('here', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def preloaded() -> Iterator[Preloaded]:
    preloaded = Preloaded(ROOT, {**os.environ, "ITS_OWN": "yes"})
    yield preloaded
    preloaded.close()


@pytest.fixture
def fork(preloaded: Preloaded, tmp_path: Path) -> Iterator[Callable[..., AdoptedProcess]]:
    """Starts a process that runs this code, with `log` in the test's folder."""
    started: list[AdoptedProcess] = []

    def fork(code: str, *arguments: str) -> AdoptedProcess:
        started.append(preloaded.start(order_of(tmp_path / "log", code, *arguments)))
        return started[-1]

    yield fork
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def order_of(log: Path, code: str, *arguments: str) -> Order:
    asked = {"ASKED": "a\nb", "PYTHONPATH": "/one/folder:/another", "TMPDIR": str(log.parent)}
    environment = {**os.environ, **asked}
    return Order(PROGRAM, (code, *arguments), environment, str(log))


def facts_of_a_fresh_process(folder: Path) -> dict[str, Any]:
    log = folder / "log"
    with log.open("ab") as output:
        subprocess.run(
            tied_to_this_process([sys.executable, "-m", PROGRAM, FACTS, "one", "two"]),
            cwd=ROOT,
            env=order_of(log, FACTS).environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=True,
        )
    return json.loads(log.read_text())


def test_a_forked_process_is_like_a_fresh_one(fork: Callable[..., AdoptedProcess], tmp_path: Path):
    """Its parent, session, folder, environment, arguments, path, files and signals are those that were asked for."""
    process = fork(FACTS, "one", "two")
    assert process.wait(30) == 0, (tmp_path / "log").read_text()
    forked = json.loads((tmp_path / "log").read_text())
    (tmp_path / "log").unlink()
    assert forked == facts_of_a_fresh_process(tmp_path)


def test_each_has_random_numbers_of_its_own(fork: Callable[..., AdoptedProcess], tmp_path: Path):
    """They do not go on where the process that forks them stood."""
    for _ in range(2):
        fork("import random; print(random.random())").wait(30)
    assert len(set((tmp_path / "log").read_text().split())) == 2


@pytest.mark.parametrize(
    ("code", "ended_with"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('in words')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(4)", 4),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_how_it_ended_is_known(fork: Callable[..., AdoptedProcess], code: str, ended_with: int):
    """As subprocess.Popen knows it."""
    process = fork(code)
    assert (process.wait(30), process.poll(), process.returncode) == (ended_with,) * 3


def test_a_process_that_runs_is_waited_for_in_vain(fork: Callable[..., AdoptedProcess], tmp_path: Path):
    """Until it is told to end."""
    process = fork(SLEEPS)
    until(lambda: "here" in (tmp_path / "log").read_text())
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.terminate()


def test_orphans_of_others_are_not_kept(fork: Callable[..., AdoptedProcess]):
    """Only while a process is started does this one take over what is left behind."""
    fork("pass").wait(30)
    code = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    orphan = psutil.Process(int(done.stdout))
    assert orphan.ppid() != os.getpid()
    orphan.kill()


def test_nothing_outlives_a_killed_owner(tmp_path: Path):
    """A test run that is killed leaves no worker behind, and not what forks them."""
    code = (
        "import os, time; from pathlib import Path; from tests.support.preloaded import Preloaded\n"
        "from tests.integration.test_preloaded import SLEEPS, order_of\n"
        f"preloaded = Preloaded(Path.cwd(), os.environ); log = Path({str(tmp_path / 'log')!r})\n"
        "print(preloaded.pid, preloaded.start(order_of(log, SLEEPS)).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        left = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(left) == 2
        owner.kill()
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in left))


def test_without_the_process_that_forks_it_is_said(tmp_path: Path):
    """What it forked before goes on."""
    preloaded = Preloaded(ROOT, os.environ)
    process = preloaded.start(order_of(tmp_path / "log", SLEEPS))
    os.kill(preloaded.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="gone"):
        preloaded.start(order_of(tmp_path / "log", SLEEPS))
    preloaded.close()
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM


def test_with_a_thread_nothing_is_forked(tmp_path: Path):
    """It may hold a lock, which nobody would release in the fork."""
    code = "import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start()"
    (tmp_path / "threaded.py").write_text(code)
    preloaded = Preloaded(tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)}, ["threaded"])
    with pytest.raises(RuntimeError, match="gone"):
        preloaded.start(order_of(tmp_path / "log", SLEEPS))
    preloaded.close()


@pytest.mark.parametrize(
    ("options", "may_be"),
    [
        (WorkerOptions(), True),
        (WorkerOptions("asyncio", environment={"KAGURA_TASKS_TENANT": "a", "OPENAI_API_KEY": ""}), True),
        (WorkerOptions("gevent"), False),
        (WorkerOptions(environment={"PYTHONPATH": "/elsewhere"}), True),
        (WorkerOptions(environment={"PYTHONWARNINGS": "error"}), False),
        (WorkerOptions(environment={"LITELLM_LOG": "DEBUG"}), False),
        (WorkerOptions(environment={"SSL_CERT_FILE": "/elsewhere"}), False),
    ],
)
def test_what_imports_differently_is_started_the_usual_way(options: WorkerOptions, may_be: bool):
    """Pools that patch, and variables that are read by an import."""
    assert options.can_be_preloaded is may_be
