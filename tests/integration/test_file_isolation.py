"""Hostile files in real parsers' processes: each fails alone, within its limits, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from kagura_tasks import load_directory
from kagura_tasks.errors import (
    ArchiveBomb,
    FileDamaged,
    FileEncrypted,
    FileNotAllowed,
    FileTooLarge,
    FileUnreadable,
    ParserDied,
    ParserTimeout,
    UnsupportedFile,
)
from kagura_tasks.files.documents import FileRef
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.loading import FileLoader
from kagura_tasks.files.pool import ParserPool
from tests.support import files
from tests.support.wait import auntil, until
from tests.support.workers import ROOT

TEXT = "text/plain"


@pytest.fixture
async def pool() -> AsyncGenerator[ParserPool]:
    async with ParserPool(1, FileLimits(parse_timeout_s=20)) as pool:
        yield pool


@contextmanager
def opened(path: Path, content: bytes = b"text") -> Generator[int]:
    path.write_bytes(content)
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def ref(path: Path) -> FileRef:
    return FileRef(root=str(path.parent), path=path.name)


async def test_six_hostile_files_fail_alone(tmp_path: Path):
    """A bomb of 1 GB, a PDF that hangs, one that is cut off, a link that leads out, passwords. Others are loaded."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    for name, content in files.SAMPLES.items():
        (root / name).write_bytes(content())
    files.write_docx_bomb(root / "bomb.docx", 1 << 30)
    (root / "cut.pdf").write_bytes(files.pdf()[:300])
    (root / "hangs.pdf").write_bytes(files.slow_pdf())
    (root / "link.txt").symlink_to("../secret.txt")
    (root / "locked.docx").write_bytes(files.locked_docx())
    (root / "locked.pdf").write_bytes(files.locked_pdf())
    (root / "large.txt").write_text("x" * 2_000_000)
    (root / "data.bin").write_bytes(bytes(range(256)))
    limits = FileLimits(parse_timeout_s=3, max_bytes=1_500_000)
    with peak_memory() as peak:
        started = time.monotonic()
        loaded = await load_directory(root, limits=limits)
        took_s = time.monotonic() - started
    assert {row.path: type(row.exception) for row in loaded.failed} == {
        "bomb.docx": ArchiveBomb,
        "cut.pdf": FileDamaged,
        "hangs.pdf": ParserTimeout,
        "large.txt": FileTooLarge,
        "link.txt": FileNotAllowed,
        "locked.docx": FileEncrypted,
        "locked.pdf": FileEncrypted,
    }
    assert [(row.path, type(row.exception)) for row in loaded.skipped] == [("data.bin", UnsupportedFile)]
    assert [document.path for document in loaded] == sorted(files.SAMPLES)
    assert took_s < 3 + 5
    (hung,) = [row for row in loaded.failed if row.path == "hangs.pdf"]
    assert 3 <= hung.seconds < 3 + 2
    assert 0 < peak() < 512_000_000
    assert "secret" not in "".join(document.text for document in loaded)


@contextmanager
def peak_memory() -> Generator[Any]:
    """The most memory that a parser of this process has at a time, looked at while the block runs."""
    most = [0]
    this = psutil.Process()

    async def look() -> None:
        while True:
            for child in this.children():
                with suppress(psutil.NoSuchProcess):
                    # Workers of other tests are children, too.
                    if any("kagura_tasks.files" in word for word in child.cmdline()):
                        most[0] = max(most[0], child.memory_info().rss)
            await asyncio.sleep(0.02)

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield lambda: most[0]
    finally:
        looking.cancel()


async def test_a_hang_ends_at_its_limit_and_the_next_file_is_parsed(tmp_path: Path):
    """The process that hung is gone; a new one takes over."""
    async with ParserPool(1, FileLimits(parse_timeout_s=1)) as pool:
        with opened(tmp_path / "a.txt") as file:
            await pool.parse(file, "a.txt", TEXT)
        (first,) = pool.pids
        with opened(tmp_path / "a.pdf", files.slow_pdf()) as file:
            started = time.monotonic()
            with pytest.raises(ParserTimeout, match=r"a\.pdf: was not parsed within 1 s"):
                await pool.parse(file, "a.pdf", "application/pdf")
            assert 1 <= time.monotonic() - started < 3
        assert not psutil.pid_exists(first)
        with opened(tmp_path / "b.txt", b"next") as file:
            assert (await pool.parse(file, "b.txt", TEXT))["text"] == "next"


async def test_memory_is_bounded(tmp_path: Path):
    """A sheet that needs gigabytes costs its parser's life, and nobody else's memory."""
    sheet = files.xlsx({"A": [["x"]]})
    with zipfile.ZipFile(io.BytesIO(sheet)) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    # Two cells, as far from each other as a sheet goes: libraries make a table of all in between.
    corner = '<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t>y</t></is></c></row></sheetData>'
    changed = members["xl/worksheets/sheet1.xml"].decode().replace("</sheetData>", corner)
    content = files.archive({**members, "xl/worksheets/sheet1.xml": changed})
    (tmp_path / "a.xlsx").write_bytes(content)
    with peak_memory() as peak:
        loaded = await load_directory(tmp_path, limits=FileLimits(parse_memory_bytes=300_000_000))
    (row,) = loaded.failed
    assert isinstance(row.exception, ParserDied)
    assert "memory" in row.reason
    assert 0 < peak() < 320_000_000


async def test_its_parents_memory_is_not_its_own(tmp_path: Path):
    """Linux counts a parent's memory for a process that it has just started. Parsers of large workers live."""
    large = bytearray(os.urandom(1 << 20) * 250)
    pids: set[int] = set()
    async with ParserPool(1, FileLimits(parse_memory_bytes=200_000_000)) as pool:
        for _ in range(2):
            with opened(tmp_path / "a.txt") as file:
                assert (await pool.parse(file, "a.txt", TEXT))["text"] == "text"
            pids.update(pool.pids)
            await asyncio.sleep(0.3)  # it looks at its memory several times
    assert (len(pids), len(large)) == (1, 250 << 20)


async def test_a_file_does_not_pay_for_those_before_it(tmp_path: Path):
    """Where a parser holds too much of its memory after some files, the next one gets a new parser."""
    for name, content in files.SAMPLES.items():
        (tmp_path / name).write_bytes(content())
    loaded = await load_directory(tmp_path, max_concurrent=1, limits=FileLimits(parse_memory_bytes=100_000_000))
    assert [row.reason for row in loaded.rows if row.status != "ok"] == []


async def test_a_used_parser_that_dies_is_no_fault_of_the_file(tmp_path: Path, pool: ParserPool):
    """It is parsed once more, by a new one."""
    with opened(tmp_path / "a.txt") as file:
        await pool.parse(file, "a.txt", TEXT)
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        parsing = asyncio.create_task(pool.parse(file, "a.txt", TEXT))
        await asyncio.sleep(0.1)  # it is asked, and does not answer
        os.kill(pid, signal.SIGKILL)
        assert (await parsing)["text"] == "text"
        assert pool.pids != [pid]


async def test_a_parser_that_is_killed_fails_its_file_alone(tmp_path: Path, pool: ParserPool):
    """Whoever killed it; the error says by what."""
    with opened(tmp_path / "a.pdf", files.slow_pdf()) as file:
        parsing = asyncio.create_task(pool.parse(file, "a.pdf", "application/pdf"))
        await auntil(lambda: _true(pool.pids))
        os.kill(pool.pids[0], signal.SIGKILL)
        with pytest.raises(ParserDied, match="SIGKILL"):
            await parsing
    with opened(tmp_path / "b.txt", b"next") as file:
        assert (await pool.parse(file, "b.txt", TEXT))["text"] == "next"


async def _true(value: object) -> bool:
    return bool(value)


async def test_cancelling_ends_the_parser(tmp_path: Path, pool: ParserPool):
    """Nobody waits for it any more: it does not go on by itself."""
    with opened(tmp_path / "a.pdf", files.slow_pdf()) as file:
        parsing = asyncio.create_task(pool.parse(file, "a.pdf", "application/pdf"))
        await auntil(lambda: _true(pool.pids))
        (pid,) = pool.pids
        started = time.monotonic()
        parsing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parsing
    assert not psutil.pid_exists(pid)
    assert time.monotonic() - started < 5


PARENT = """
import asyncio, os, sys
from kagura_tasks.files.pool import ParserPool

async def main():
    pool = ParserPool(1)
    file = os.open(sys.argv[1], os.O_RDONLY)
    parsing = asyncio.create_task(pool.parse(file, "a.pdf", "application/pdf"))
    while not pool.pids:
        await asyncio.sleep(0.01)
    print(pool.pids[0], flush=True)
    await parsing

asyncio.run(main())
"""


def test_a_parser_dies_with_its_parent(tmp_path: Path):
    """Also where the parent is killed, and it is in the middle of a file."""
    (tmp_path / "a.pdf").write_bytes(files.slow_pdf())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "a.pdf")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        # It is in the middle of the file: more than its start has taken.
        until(lambda: psutil.Process(pid).cpu_times().user > 0.8)
        parent.kill()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 5)


STUCK = """
import re
from kagura_tasks.files import confine
confine._GRACE_S = 0.2
confine.bound_time(0.1)
re.match("(a+)+b", "a" * 60)
"""


def test_the_system_ends_what_holds_the_interpreter():
    """A parser that is stuck in C sees neither its parent's death nor its own limit."""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", STUCK], cwd=ROOT, timeout=30)
    assert ended.returncode == -signal.SIGALRM
    assert time.monotonic() - started < 5


def test_a_pool_serves_one_event_loop_after_the_other(tmp_path: Path):
    """As workers do that run a loop for each task; its processes stay."""
    (tmp_path / "a.txt").write_text("text")
    pool = ParserPool(1)

    async def load() -> tuple[list[str], list[int]]:
        loaded = await asyncio.gather(*(FileLoader(pool).load(ref(tmp_path / "a.txt")) for _ in range(20)))
        return [one.row.status for one in loaded], pool.pids

    try:
        first, second = asyncio.run(load()), asyncio.run(load())
    finally:
        pool.close()
    assert first == second == (["ok"] * 20, first[1])


async def test_a_parser_has_no_key_and_no_path(tmp_path: Path, pool: ParserPool, monkeypatch: pytest.MonkeyPatch):
    """It gets an open file. Its environment has nothing that it does not need, and its other files are none of ours."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    with opened(tmp_path / "a.txt") as file:
        await pool.parse(file, "a.txt", TEXT)
        (pid,) = pool.pids
    parser = psutil.Process(pid)
    assert "test-key" not in str(parser.environ())
    assert str(tmp_path) not in str(parser.cmdline()) + str(parser.open_files())
    assert parser.memory_info().rss < 60_000_000


async def test_a_process_parses_many_files(tmp_path: Path, pool: ParserPool):
    """Starting one takes a tenth of a second: it is not started for each file."""
    pids: set[int] = set()
    for number in range(20):
        with opened(tmp_path / f"{number}.txt", str(number).encode()) as file:
            assert (await pool.parse(file, "a", TEXT))["text"] == str(number)
        pids.update(pool.pids)
    assert len(pids) == 1


async def test_no_more_parse_at_a_time_than_the_pool_has(tmp_path: Path, request: pytest.FixtureRequest):
    """Others wait for their turn, and their files are not open meanwhile: a process may have a thousand."""
    paths = [tmp_path / f"{number}.txt" for number in range(300)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 150, hard))
    async with ParserPool(2) as pool:
        loader = FileLoader(pool)
        loaded = await asyncio.gather(*(loader.load(ref(path)) for path in paths))
        assert [one.document.text for one in loaded if one.document] == [str(number) for number in range(300)]
        assert len(pool.pids) <= 2


async def test_a_file_that_vanishes_after_the_scan_is_a_row(tmp_path: Path, pool: ParserPool):
    """The same for one whose place a link or a pipe has taken."""
    (tmp_path / "link.txt").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.txt")
    loader = FileLoader(pool)
    rows = [(await loader.load(ref(tmp_path / name))).row for name in ("gone.txt", "link.txt", "pipe.txt")]
    assert [type(row.exception) for row in rows] == [FileUnreadable, FileNotAllowed, FileNotAllowed]
    assert rows[0].reason == "is not there, or not any more"


async def test_a_file_that_changes_while_it_is_parsed_is_a_row(tmp_path: Path):
    """Its hash would be that of something else."""
    path = tmp_path / "a.pdf"
    path.write_bytes(files.slow_pdf(30_000))
    async with ParserPool(1) as pool:
        loading = asyncio.create_task(FileLoader(pool).load(ref(path)))
        await auntil(lambda: _true(pool.pids))
        with path.open("ab") as file:
            file.write(b"more")
        row = (await loading).row
    assert row.reason == "was changed while it was read"


async def test_workers_load_below_their_roots_alone(tmp_path: Path, pool: ParserPool):
    """Whatever a reference says."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "other").mkdir()
    for folder in ("allowed", "other"):
        (tmp_path / folder / "a.txt").write_text(folder)
    loader = FileLoader(pool, allowed=[str(tmp_path / "allowed")])
    loaded = [await loader.load(ref(tmp_path / folder / "a.txt")) for folder in ("allowed", "other")]
    assert [one.row.status for one in loaded] == ["ok", "failed"]
    assert "KAGURA_TASKS_FILE_ROOTS" in loaded[1].row.reason
    with pytest.raises(FileNotAllowed):
        await loader.document(ref(tmp_path / "other/a.txt"))


async def test_a_fork_does_not_share_its_parents_parsers(tmp_path: Path, pool: ParserPool):
    """Two processes would read each other's answers: the child starts its own, and leaves the parent's alone."""
    with opened(tmp_path / "a.txt") as file:
        await pool.parse(file, "a.txt", TEXT)
        (ours,) = pool.pids
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                # A loop of its own: the parent's is running in what was copied.
                asyncio._set_running_loop(None)
                answer = asyncio.new_event_loop().run_until_complete(pool.parse(file, "a.txt", TEXT))
                status = int(answer["text"] != "text" or pool.pids == [ours])
                pool.close()
            finally:
                os._exit(status)
        os.close(writer)
        os.close(reader)
        _, ended = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(ended) == 0
        assert psutil.pid_exists(ours)
        assert (await pool.parse(file, "a.txt", TEXT))["text"] == "text"
        assert pool.pids == [ours]


def test_it_works_on_uvloop_beside_the_main_thread(tmp_path: Path):
    """Where the loops of some workers are, and no signal of a child's end arrives."""
    (tmp_path / "a.txt").write_text("text")
    code = (
        "import asyncio, sys, threading, uvloop; from kagura_tasks import load_directory\n"
        "def run():\n"
        "    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:\n"
        "        print([one.text for one in runner.run(load_directory(sys.argv[1]))])\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "['text']\n"
