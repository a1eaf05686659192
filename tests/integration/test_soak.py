"""A worker that has run thousands of tasks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.workers import ROOT


@pytest.mark.timeout(150)
def test_a_worker_keeps_nothing_of_its_tasks():
    """Coroutines, plain functions, prompts; failed, retried, ended by limits: no greenlet and no task of asyncio."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "soak"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=140, check=False)
    assert ended.returncode == 0, ended.stderr
    (report,) = json.loads(ended.stdout)
    left = report["figures"]["left"]
    assert report["figures"]["tasks"][-1] == 2100
    assert (left[-1]["greenlets"], left[-1]["asyncio tasks"]) == (left[0]["greenlets"], left[0]["asyncio tasks"])
    assert left[-1]["threads"] <= left[0]["threads"] + 64  # the plain functions', at most
