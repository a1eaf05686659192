"""Tables for people, and benchmarks/RESULTS.md: only what a run printed is written there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from kagura_tasks.embedded_redis import find_server

RESULTS: Final = Path(__file__).parent / "RESULTS.md"

_HEADER: Final = """# Results

Written by `make bench` (`python -m benchmarks`), each section by its own run; edit nothing here by hand. Figures of
different sections, or of different runs, cannot be compared: compare rows of one table, and among them the ratios.
`a [b..c]` is the median of the rounds, and their range.
"""

_LIBRARIES: Final = ("celery", "kombu", "redis", "litellm", "pydantic")


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column is text, all others are figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Markdown, aligned so that a terminal shows it well, too."""
        rows = [list(self.head), *(list(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.head))]
        lines = ["| " + " | ".join(_fit(cell, widths, n) for n, cell in enumerate(row)) + " |" for row in rows]
        rule = "|" + "|".join("-" * (width + 1) + (":" if n else "-") for n, width in enumerate(widths)) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])


def _fit(cell: str, widths: Sequence[int], column: int) -> str:
    return cell.ljust(widths[column]) if column == 0 else cell.rjust(widths[column])


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        name: The benchmark's.
        question: What it answers, in a sentence.
        tables: The figures.
        notes: What one has to know to read them; and goals, with what came out.
        figures: The same figures for programs.
    """

    name: str
    question: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    def text(self, machine: str) -> str:
        """A section of Markdown."""
        tables = "\n\n".join(table.text() for table in self.tables)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"## {self.name}\n\n{self.question}\n\n{tables}\n\n{notes}\n\n{machine}\n"

    def as_json(self, machine: str) -> dict[str, Any]:
        """The report for programs."""
        return {**asdict(self), "machine": machine}


def goal(what: str, met: bool, found: str) -> str:
    """The note that says what was wanted, and what came out."""
    return f"Goal: {what}: {'met' if met else 'NOT met'} ({found})."


def machine_line() -> str:
    """Where and with what this was run, and how busy the machine was before."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    load = os.getloadavg()[0]
    return (
        f"Run {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {platform.system()} {platform.machine()},"
        f" {psutil.cpu_count()} CPUs ({_cpu_name()}), load {load:.1f} before it;"
        f" Python {platform.python_version()}, {libraries}, {_server()}."
    )


def _server() -> str:
    server = find_server()
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bv=([\d.]+)", told)
    return f"{server.name} {found[1] if found else '?'}"


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unknown"


def write(report: Report, machine: str, path: Path = RESULTS) -> None:
    """Put the report into its section of the file, or at its end; the other sections stay as they are."""
    begin, end = f"<!-- {report.name} -->", f"<!-- end of {report.name} -->"
    section = f"{begin}\n{report.text(machine)}{end}"
    text = path.read_text("utf-8") if path.exists() else _HEADER
    before, found, rest = text.partition(begin)
    text = before + section + rest.partition(end)[2] if found else f"{text.rstrip()}\n\n{section}\n"
    path.write_text(text, "utf-8")
