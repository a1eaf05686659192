"""The benchmarks run, and print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.workers import ROOT

NAMES = ["cached_hit", "in_flight", "throughput", "single_flight", "map"]
QUEUE_NAMES = ["queue_throughput", "queue_round_trip", "queue_first_get"]


@pytest.mark.timeout(180)
def test_a_quick_run_prints_a_table_for_each_benchmark():
    """One quick run of them all: their workers are shared, since starting one takes seconds. It writes no results."""
    results = ROOT / "benchmarks" / "RESULTS.md"
    before = results.read_bytes() if results.exists() else None
    command = [sys.executable, "-m", "benchmarks", "--quick", *NAMES, "zipf"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert ended.returncode == 0, ended.stderr
    sections = dict(section.split("\n", 1) for section in ended.stdout.split("## ")[1:])
    assert list(sections) == [*NAMES, "zipf"]
    assert "- Goal: hit rate at least 90 %: met (90.3%; 29 calls are the least).\n" in sections.pop("zipf")
    for text in sections.values():
        assert "\n| kagura_tasks" in text or "\n| client.complete()" in text
        assert "\n| plain Celery" in text
        assert "CPUs" in text
    assert (results.read_bytes() if results.exists() else None) == before


def test_the_queue_benchmarks_say_whom_they_leave_out():
    """Stock Celery and ours are always there. The other queues are a dependency of `make bench` alone."""
    command = [sys.executable, "-m", "benchmarks", "--quick", *QUEUE_NAMES]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    sections = dict(section.split("\n", 1) for section in ended.stdout.split("## ")[1:])
    assert list(sections) == QUEUE_NAMES
    for text in sections.values():
        assert "\n| kagura_tasks" in text
        assert "\n| plain Celery" in text
        assert "\n- Goal: " in text
    told = "left out, since not installed: arq, dramatiq, saq, taskiq, taskiq-redis"
    assert (told in ended.stderr) == (find_spec("taskiq") is None)


def test_an_unknown_name_is_refused():
    """Before anything is started."""
    command = [sys.executable, "-m", "benchmarks", "no_such_benchmark"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "no_such_benchmark" in ended.stderr


def test_json_is_for_programs():
    """With --json the output is one JSON document."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "cached_hit"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    (report,) = json.loads(ended.stdout)
    assert report["name"] == "cached_hit"
    assert report["figures"]["x_get"] > 0
