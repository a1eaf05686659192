"""Folders through the model in this process: what workers promise, without Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from kagura_tasks import LLMClient, Settings
from kagura_tasks.errors import FileDamaged, FileNotAllowed, RequestRefused
from tests.support import files
from tests.support.lanes import MARKS
from tests.support.llm import StubServer
from tests.support.wait import until

pytestmark = MARKS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.md").write_text("# Tides\n")
    (tmp_path / "b.docx").write_bytes(files.docx())
    (tmp_path / "cut.pdf").write_bytes(files.pdf()[:200])
    (tmp_path / "d.bin").write_bytes(bytes(100))
    return tmp_path


def test_each_file_has_its_row_and_a_second_run_costs_nothing(inline_client: LLMClient, folder: Path, stub: StubServer):
    """Answers in the order of the paths, one over all of them, and no parser is left."""
    reduce = "{{ parts | length }} of {{ count }}: {{ parts | join('|') }}"
    result = inline_client.process_files(folder, "Sum up.", reduce_prompt=reduce)
    outcomes = result.get(timeout_s=90)
    assert [(one.path, one.row.status) for one in outcomes] == [
        ("a.md", "ok"),
        ("b.docx", "ok"),
        ("cut.pdf", "failed"),
        ("d.bin", "skipped"),
    ]
    assert isinstance(outcomes[2].error, FileDamaged)
    assert outcomes[0].get().text == "Sum up.\n\n<file>\n# Tides\n</file>"
    assert result.reduced.get().text.startswith("2 of 3: ## a.md\n\nSum up.")
    progress = result.progress()
    assert (progress.state, progress.done, progress.failed) == ("done", 2, 1)
    calls = stub.count()
    again = inline_client.process_files(folder, "Sum up.").get()
    assert ([one.row.status for one in again[:2]], stub.count()) == (["cached", "cached"], calls)
    until(lambda: not _parsers(), what="no parser left")


def test_it_is_the_same_for_async_code_and_by_its_id(inline_client: LLMClient, folder: Path):
    """As they end; what was left out comes first."""

    async def paths() -> list[str]:
        result = await inline_client.aprocess_files(folder, prompt="Sum up.", pattern="*.md")
        assert len(await result) == 4
        return [one.path async for one in inline_client.files(result.id)]

    assert sorted(asyncio.run(paths())) == ["a.md", "b.docx", "cut.pdf", "d.bin"]


def test_what_failed_is_tried_again_alone(inline_client: LLMClient, folder: Path, stub: StubServer):
    """A skipped file has not failed, and is not."""
    stub.script(when="Tides", status=400, body="{}", times=2)
    result = inline_client.process_files(folder, "Sum up.")
    failed = {one.path: type(one.error) for one in result.get() if one.row.status == "failed"}
    assert failed == {"a.md": RequestRefused, "b.docx": RequestRefused, "cut.pdf": FileDamaged}
    inline_client.resume_map(result.id, retry_failed=True)
    assert [one.row.status for one in inline_client.files(result.id).get()] == ["ok", "ok", "failed", "skipped"]


def test_only_allowed_folders_are_read_where_some_are_named(folder: Path):
    """By the setting that counts for workers."""
    settings = Settings(execution="inline", redis_url="redis://127.0.0.1:1/0", file_roots="/elsewhere")
    with pytest.raises(FileNotAllowed):
        LLMClient(settings).process_files(folder, "Sum up.")


def _parsers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "kagura_tasks.files" in " ".join(one.cmdline())]
