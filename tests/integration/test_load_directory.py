"""`load_directory` as an application uses it, and documents that are kept by content."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kagura_tasks import LocalParseCache, ParseCache, RedisParseCache, Settings, load_directory
from kagura_tasks.connections import sync_client
from kagura_tasks.errors import ConfigurationError, FileDamaged, FileUnreadable, InvalidRequest
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.loading import limits_of
from kagura_tasks.files.process import ParserProcess
from kagura_tasks.settings import RedisUrl
from tests.support import files
from tests.support.workers import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, one of them broken, and one that is left out."""
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "a.md").write_text("# A")
    (folder / "b/c.txt").write_text("c")
    (folder / "cut.pdf").write_bytes(files.pdf()[:300])
    (folder / "run.log").write_text("log")
    (folder / ".kaguraignore").write_text("*.log")
    return folder


async def test_documents_and_rows_come_in_the_order_of_their_paths(tmp_path: Path):
    """Whatever ends first: the large file is parsed longest."""
    names = [f"{number:02}.csv" for number in range(20)]
    for number, name in enumerate(names):
        (tmp_path / name).write_text("a,b\n" * (20_000 if number < 2 else 1))
    loaded = await load_directory(tmp_path, max_concurrent=4)
    assert [document.path for document in loaded] == [row.path for row in loaded.rows] == names


async def test_a_failure_is_a_row_and_a_line_in_the_log(folder: Path, caplog: pytest.LogCaptureFixture):
    """Whoever looks at the list alone is warned."""
    with caplog.at_level(logging.WARNING):
        loaded = await load_directory(folder)
    assert [document.path for document in loaded] == ["a.md", "b/c.txt"]
    assert [(row.path, row.status) for row in loaded.rows] == [
        (".kaguraignore", "skipped"),
        ("a.md", "ok"),
        ("b/c.txt", "ok"),
        ("cut.pdf", "failed"),
        ("run.log", "skipped"),
    ]
    assert "1 of the 5 files" in caplog.text


async def test_the_first_failure_can_end_all(folder: Path):
    """With its own error."""
    with pytest.raises(FileDamaged, match=r"cut\.pdf"):
        await load_directory(folder, on_error="raise")


async def test_a_document_says_what_it_is_of(folder: Path):
    """The hash is that of the file's bytes."""
    (document,) = await load_directory(folder, pattern="*.md")
    assert (document.path, document.media_type, document.size_bytes) == ("a.md", "text/markdown", 3)
    assert document.sha256 == hashlib.sha256(b"# A").hexdigest()
    assert document.loader == "markdown/1"


@pytest.mark.parametrize("name", ["nowhere", "a.md"])
async def test_a_path_that_is_no_folder_is_an_error(folder: Path, name: str):
    """There is nothing to tell of."""
    with pytest.raises(FileUnreadable, match="no such folder"):
        await load_directory(folder / name)


async def test_a_mistake_of_the_caller_is_an_error(folder: Path):
    """Before anything is parsed."""
    with pytest.raises(InvalidRequest, match="max_concurrent is 0"):
        await load_directory(folder, max_concurrent=0)
    with pytest.raises(InvalidRequest, match="matches no file"):
        await load_directory(folder, pattern="")


async def test_an_empty_folder_has_no_documents(tmp_path: Path):
    """And no rows."""
    loaded = await load_directory(tmp_path)
    assert (list(loaded), loaded.rows) == ([], ())


def test_limits_come_from_the_settings():
    """Each has a variable; nothing is unlimited."""
    assert limits_of(Settings()) == FileLimits()
    assert limits_of(Settings(file_max_pages=7)).max_pages == 7
    with pytest.raises(ConfigurationError, match="KAGURA_TASKS_FILE_MAX_BYTES"):
        Settings(file_max_bytes=0)
    assert Settings().allowed_file_roots == ()
    assert Settings(file_roots="/a:/b").allowed_file_roots == ("/a", "/b")


def test_loading_needs_neither_litellm_nor_celery():
    """An application that loads files does not wait for what workers need. A parser imports even less."""
    code = "import {}, sys; print([name for name in {!r} if name in sys.modules])"
    for module, heavy in (
        ("kagura_tasks.files.loading", ["litellm", "celery", "pypdf", "PIL"]),
        ("kagura_tasks.files.child", ["litellm", "celery", "pydantic", "redis", "asyncio", "pypdf", "PIL"]),
    ):
        command = [sys.executable, "-c", code.format(module, heavy)]
        assert subprocess.check_output(command, text=True, cwd=ROOT) == "[]\n"


@pytest.fixture(params=["memory", "disk", "redis"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ParseCache]:
    if request.param == "redis":
        yield RedisParseCache(request.getfixturevalue("settings"))
        return
    is_disk = request.param == "disk"
    cache = LocalParseCache.on_disk(tmp_path / "documents.sqlite3") if is_disk else LocalParseCache.in_memory()
    yield cache
    await cache.close()


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of what is parsed."""
    seen: list[str] = []
    parse = ParserProcess.parse

    def counted(self: ParserProcess, file: int, path: str, media_type: str) -> dict[str, object]:
        seen.append(path)
        return parse(self, file, path, media_type)

    monkeypatch.setattr(ParserProcess, "parse", counted)
    return seen


async def test_a_second_run_parses_nothing(folder: Path, cache: ParseCache, parses: list[str]):
    """The documents are the same; what failed is tried again."""
    first = await load_directory(folder, cache=cache)
    parsed, parses[:] = sorted(parses), []
    second = await load_directory(folder, cache=cache)
    assert parsed == ["a.md", "b/c.txt", "cut.pdf"]
    assert parses == ["cut.pdf"]
    assert list(second) == list(first)
    assert [row.status for row in second.rows] == ["skipped", "cached", "cached", "failed", "skipped"]


async def test_content_counts_and_not_the_name(folder: Path, cache: ParseCache, parses: list[str]):
    """A file that was moved is known; one that was changed is not; another kind of text is another document."""
    await load_directory(folder, cache=cache)
    parses.clear()
    (folder / "a.md").rename(folder / "moved.md")
    (folder / "b/c.txt").write_text("changed")
    (folder / "a.html").write_text("# A")
    loaded = await load_directory(folder, cache=cache, pattern="*.[mth]*")
    assert sorted(parses) == ["a.html", "b/c.txt"]
    assert [document.path for document in loaded] == ["a.html", "b/c.txt", "moved.md"]


async def test_other_limits_are_another_document(folder: Path, cache: ParseCache, parses: list[str]):
    """What was left out or refused under one may be there under another; how long it may take changes nothing."""
    for limits in (FileLimits(), FileLimits(max_pages=5), FileLimits(parse_timeout_s=5)):
        await load_directory(folder, cache=cache, pattern="*.md", limits=limits)
    assert parses == ["a.md", "a.md"]


async def test_what_is_kept_and_is_no_document_is_made_anew(folder: Path, settings: Settings, parses: list[str]):
    """Whoever wrote it."""
    cache, client = RedisParseCache(settings), sync_client(settings.cache, 2.0)
    for garbage in (None, b"garbage", b'{"path": "a"}', b""):
        for key in client.keys("kagura:files:*"):
            assert garbage is not None
            client.set(key, garbage, ex=60)
        loaded = await load_directory(folder, cache=cache, pattern="*.md")
        assert [row.status for row in loaded.rows if row.path == "a.md"] == ["ok"]
    assert len(parses) == 4


async def test_tenants_do_not_share_documents(folder: Path, settings: Settings, parses: list[str]):
    """Not even where they have the same file."""
    for tenant in ("a", "b"):
        await load_directory(folder, cache=RedisParseCache(settings, tenant), pattern="*.md")
    assert len(parses) == 2


async def test_without_redis_everything_is_parsed(folder: Path, parses: list[str], caplog: pytest.LogCaptureFixture):
    """A cache that is away is a cache without this document; a warning says so."""
    nowhere = Settings(redis_url=RedisUrl("redis://127.0.0.1:1/0"))
    loaded = await load_directory(folder, cache=RedisParseCache(nowhere), pattern="*.md")
    assert [document.text for document in loaded] == ["# A"]
    assert "could not be looked up" in caplog.text
    assert "could not be kept" in caplog.text


async def test_nothing_is_kept_of_a_file_that_is_cancelled(tmp_path: Path):
    """Only what was parsed to its end is remembered."""
    (tmp_path / "a.pdf").write_bytes(files.slow_pdf())
    cache = LocalParseCache.in_memory()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await load_directory(tmp_path, cache=cache)
    loaded = await load_directory(tmp_path, cache=cache, limits=FileLimits(parse_timeout_s=0.5))
    assert [row.status for row in loaded.rows] == ["failed"]
