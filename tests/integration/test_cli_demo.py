"""`kagura-tasks demo`, with canned answers in place of the model; everything else is real."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

from tests.integration.test_cli import all_gone, kagura, started, the_error
from tests.support.workers import Worker


def test_the_demo_from_beginning_to_end():
    """A prompt through a worker, the same as a hit, twenty at once, a table, Flower's address; then it is over."""
    done = kagura("demo", "--scripted", "--workers", "1", environment={"COLUMNS": "250"})
    assert done.returncode == 0, done.stderr
    assert "Model    none: canned answers, each marked DEMO" in done.stdout
    answers = re.findall(r"^(?:answer|summarise|rewrite|classify) .*$", done.stdout, re.MULTILINE)
    assert len(answers) == 22
    assert all("DEMO" in answer for answer in answers)
    assert re.search(r"^CACHE HIT .* times faster, no worker, no tokens$", done.stdout, re.MULTILINE)
    assert table_of(done.stdout) == {
        "one prompt": [1, 1, 0],
        "the same again": [1, 0, 1],
        "20 at once": [20, 20, 0],
        "the same 20 again": [20, 0, 20],
        "all": [42, 21, 21],
    }
    assert re.search(r"^Flower   http://127\.0\.0\.1:\d+$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout + done.stderr


def table_of(shown: str) -> dict[str, list[int]]:
    """Prompts, calls and hits by the line's name."""
    table = shown.partition("tokens/s   seconds")[2].partition("\n\n")[0]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if line.strip()]
    return {row[0]: [int(number) for number in row[1:4]] for row in rows}


def test_a_machine_reads_one_document_and_keep_waits(tmp_path: Path):
    """--json prints one document; --keep leaves everything running until Ctrl-C, and nothing after that."""
    options = ["--scripted", "--workers", "1", "--keep", "--json"]
    with started(tmp_path, "demo", *options) as running:
        told = json.loads(running.printed("\n}\n"))
        assert all(answer["answer"].startswith("DEMO") for answer in told["answers"])
        assert [(one["calls"], one["hits"]) for one in told["rounds"]] == [(1, 0), (0, 1), (20, 0), (0, 20), (21, 21)]
        family = running.family()
        # The server, the model, the worker and Flower.
        assert len(family) >= 4
        assert running.stop(signal.SIGINT) == 0
    all_gone(family)
    assert "Traceback" not in running.stderr


def test_other_workers_would_take_the_prompts(worker: Worker, redis_url: str):
    """On a Redis where workers are at work the demo does not start: they would send its prompts to their providers."""
    assert "workers are at work" in the_error(kagura("demo", redis_url=redis_url))
