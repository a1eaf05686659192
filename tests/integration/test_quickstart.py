"""The quickstart, followed word for word by somebody with two terminals and a model that answers as its page says.

In this checkout, with the environment that is there. KAGURA_TEST_CLEAN_CHECKOUT=1 follows it in a clean clone instead,
with everything that takes minutes: the installation, `make demo` with its model, and a worker of each kind.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.test_docs import RUNNER, blocks
from tests.support.llm import LlmServer
from tests.support.wait import until
from tests.support.workers import NOT_INHERITED, ROOT

PAGE = Path("docs/quickstart.md")
IS_CLEAN = bool(os.environ.get("KAGURA_TEST_CLEAN_CHECKOUT"))
_TIMEOUT_S = 900 if IS_CLEAN else 100

Variables = dict[str, str]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where somebody stands who follows the page."""
    if not IS_CLEAN:
        return ROOT
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


@pytest.fixture
def variables(llm: LlmServer) -> Variables:
    """Of every terminal: nothing about us, and a provider that costs nothing behind `openai/...`."""
    # Nor about the `make` that runs the tests: its ARGS would be those of `make up`.
    others = (*NOT_INHERITED, "ARGS", "MAKE", "MFLAGS")
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(others)}
    ours = {"OPENAI_API_BASE": llm.base_url, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUNBUFFERED": "1"}
    # Where the environment is there, `make` shall not look whether it is whole.
    return {**inherited, **ours, **({} if IS_CLEAN else {"MAKEFLAGS": "bootstrap=@:"})}


def shell_blocks() -> list[str]:
    """The page's commands, from top to bottom."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / PAGE).read_text("utf-8"), re.MULTILINE | re.DOTALL)


@contextmanager
def terminal(commands: str, checkout: Path, variables: Variables, screen: Path) -> Iterator[None]:
    """Somebody types commands that run until Ctrl-C, which comes at the end of the block."""
    with screen.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-ec", commands],
            cwd=checkout,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
        # To all in the foreground, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def shows(screen: Path, pattern: str) -> re.Match[str]:
    """What the terminal shows, sooner or later."""
    return until(lambda: re.search(pattern, screen.read_text("utf-8"), re.MULTILINE), _TIMEOUT_S, pattern)


def typed(commands: str, checkout: Path, variables: Variables) -> str:
    """Commands that end by themselves, and well; what they print."""
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=checkout, env=variables, capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_python_blocks(llm: LlmServer, pasted: str, checkout: Path, variables: Variables) -> None:
    """With the Python and in the terminal that the page names; each block prints what it says."""
    marked = [block for block in blocks(ROOT / PAGE) if block.mark]
    program = [{"code": block.code, "where": block.where, "says": block.says} for block in marked]
    done = subprocess.run(
        ["sh", "-ec", f'{pasted}\nexec .venv/bin/python -c "$0" "$1"', RUNNER, llm.url],
        cwd=checkout,
        env={name: value for name, value in variables.items() if not name.startswith("OPENAI_")},
        input=json.dumps(program),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    for block, printed in zip(marked, json.loads(done.stdout), strict=True):
        assert not block.expected or printed == block.expected


@pytest.mark.timeout(2 * _TIMEOUT_S)
def test_the_quickstart_word_for_word(checkout: Path, variables: Variables, llm: LlmServer, tmp_path: Path):
    """`make up`, the line to paste, questions from the shell, all of the page's code; in a clean clone, the rest."""
    demo, up, ask, workers = shell_blocks()
    if IS_CLEAN:
        assert "CACHE HIT" in typed(demo, checkout, variables)
    screen = tmp_path / "screen"
    with terminal(up, checkout, variables, screen):
        pasted = shows(screen, r"^ *(export KAGURA_TASKS_REDIS_URL=.*)$")[1]
        shows(screen, "Ctrl-C stops everything")
        llm.reply("Blue light is scattered most.")
        assert typed(f"{pasted}\n{ask}", checkout, variables) == "Blue light is scattered most.\n" * 3
        assert llm.count("Why is the sky blue?") == 2, "the second one came from the cache"
        run_python_blocks(llm, pasted, checkout, variables)
        if IS_CLEAN:
            run_each_worker(workers, pasted, checkout, {**variables, "OPENAI_API_KEY": "..."}, tmp_path)


def run_each_worker(commands: str, pasted: str, checkout: Path, variables: Variables, folder: Path) -> None:
    """Each line is a worker that becomes ready; plain Celery does not say so by itself, and shows its banner."""
    for number, line in enumerate(commands.splitlines()):
        screen = folder / f"worker-{number}"
        with terminal(f"{pasted}\n{line}", checkout, variables, screen):
            shows(screen, r"@\S+ ready\." if "kagura-tasks" in line else r"\[queues\]")
