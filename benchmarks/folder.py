"""A folder of mixed files through the model: by two worker processes, and by hand, one file after the other."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast
from uuid import uuid4

from benchmarks.contenders import client_on
from benchmarks.harness import BenchmarkError, Stage, WorkerSpec
from benchmarks.measure import Spread, ratios
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal
from kagura_tasks import LLMClient
from tests.support import files

_QUESTION: Final = "How long does a folder of files take?"

_OURS_LABEL: Final = "kagura_tasks, client.process_files, {} in flight"
_SERIAL_LABEL: Final = "by hand, one after the other"

_DATABASE: Final = 1

#: Files in flight at a time; and seconds of one call at the provider.
_WINDOWS: Final = (16, 256)
_SERVICE_S: Final = 0.2

#: The part of the serial time that it may take.
_GOAL: Final = 0.5


def run(options: Options, made: Stage) -> Report:
    """Each round has a folder of its own, which nobody has seen before."""
    count = 12 if options.quick else 200
    made.set_latency(_SERVICE_S)
    spec = WorkerSpec("workers.main", "asyncio", 256, _DATABASE, queues="files,llm.batch")
    workers = made.start_several(1 if options.quick else 2, spec)[0]
    client = client_on(made, _DATABASE)
    _warm(client)
    serial_s, ours_s = list[float](), {window: list[float]() for window in _WINDOWS}
    with made.program("benchmarks.serial_files") as by_hand:
        with TemporaryDirectory(prefix="kagura-folder-") as name:
            _ = _by_hand(by_hand, Path(name) / "warm", 1)
        for _ in range(options.rounds):
            with TemporaryDirectory(prefix="kagura-folder-") as name:
                serial_s.append(_by_hand(by_hand, Path(name) / "serial", count))
                for window in _WINDOWS:
                    ours_s[window].append(_process(client, Path(name) / str(window), count, window))
    for worker in workers:
        worker.check()
    figures: dict[str, Any] = {"serial_s": serial_s, "ours_s": ours_s}
    return Report("folder", _QUESTION, [_table(serial_s, ours_s, count)], _notes(count, serial_s, ours_s), figures)


def write_folder(folder: Path, count: int) -> Path:
    """So many files of eight kinds. No two runs have one in common, so that nothing is remembered."""
    run_id = uuid4().hex
    folder.mkdir(parents=True)
    for number in range(count):
        suffix, content = _content(number, f"{run_id} {number} " + "The sea rises and falls. " * 40)
        (folder / f"{number:04}.{suffix}").write_bytes(content)
    return folder


def _content(number: int, text: str) -> tuple[str, bytes]:
    paragraph = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>".format
    makers: list[tuple[str, bytes]] = [
        ("md", f"# Tides\n\n{text}\n".encode()),
        ("txt", text.encode("utf-16")),
        ("html", f"<html><h1>Tides</h1><p>{text}</p></html>".encode()),
        ("csv", f"port,text\nBrest,{text}\n".encode()),
        ("json", json.dumps({"text": text}).encode()),
        ("docx", files.docx(paragraph(text))),
        ("pptx", files.pptx([text[:200], "Moons"])),
        ("pdf", files.pdf([text[:80], "The second page."])),
    ]
    return makers[number % len(makers)]


def _warm(client: LLMClient) -> None:
    """Parsers are started, and LiteLLM is imported."""
    with TemporaryDirectory(prefix="kagura-folder-") as name:
        _ = client.process_files(write_folder(Path(name) / "warm", 16), "Sum up.").get(timeout_s=60)


def _by_hand(program: Any, folder: Path, count: int) -> float:
    program.stdin.write(f"{write_folder(folder, count)}\n")
    program.stdin.flush()
    seconds, answered = cast(str, program.stdout.readline()).split()
    if int(answered) != count:
        raise BenchmarkError(f"by hand, {answered} of {count} files were answered")
    return float(seconds)


def _process(client: LLMClient, folder: Path, count: int, window: int) -> float:
    _ = write_folder(folder, count)
    started_at = time.monotonic()
    outcomes = client.process_files(folder, "Sum up.", max_in_flight=window).get(timeout_s=300)
    seconds = time.monotonic() - started_at
    if [one.path for one in outcomes if one.completion] != sorted(path.name for path in folder.iterdir()):
        raise BenchmarkError("not all files were answered in the order of their paths")
    return seconds


def _table(serial_s: list[float], ours_s: dict[int, list[float]], count: int) -> Table:
    labelled = [(_SERIAL_LABEL, serial_s, 1)]
    labelled += [(_OURS_LABEL.format(window), seconds, window) for window, seconds in ours_s.items()]
    rows = [
        [label, Spread.of(all_s).text(2), ratios(all_s, serial_s).text(2), f"{_ideal_s(count, window):.1f}"]
        for label, all_s, window in labelled
    ]
    return Table([f"{count} files", "seconds", "x by hand", "calls alone"], rows)


def _ideal_s(count: int, window: int) -> float:
    """What the provider's time alone comes to."""
    return math.ceil(count / window) * _SERVICE_S


def _notes(count: int, serial_s: list[float], ours_s: dict[int, list[float]]) -> list[str]:
    part = ratios(ours_s[_WINDOWS[0]], serial_s).median
    folder = (
        f"{count} files, as many of each kind (Markdown, UTF-16 text, HTML, CSV, JSON, DOCX, PPTX, PDF), and a provider"
        f" that takes {_SERVICE_S * 1000:g} ms; rounds: {len(serial_s)}, interleaved."
    )
    contenders = (
        "By hand: `load_directory` with one parser, then `litellm.completion` for each document. Ours: two worker"
        " processes (asyncio c256) with two parsers each, which serve both queues; the files' content is sent to Redis."
        " Caller, provider, Redis and workers share the machine. `calls alone`: what the provider's time comes to where"
        " so many calls run at a time."
    )
    return [
        folder,
        contenders,
        "The answers came in the order of the paths, all of them, in each round.",
        goal("at most half of the time by hand, with two worker processes", part <= _GOAL, f"{part:.2f}"),
    ]
