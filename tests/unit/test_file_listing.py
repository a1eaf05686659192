"""From what a caller names to files: a folder, a file, or a list; what cannot be one is a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from kagura_tasks import FileRef, FileRow
from kagura_tasks.errors import FileNotAllowed, FileUnreadable, InvalidRequest
from kagura_tasks.files.listing import files_in


def paths(found: object) -> list[str]:
    return [one.path for one in found if isinstance(one, FileRef)]


def test_a_folder_is_scanned(tmp_path: Path):
    """What nobody reads is a row; what could be read with an extra is for the worker to say."""
    (tmp_path / "a.md").write_text("# A\n")
    (tmp_path / "b.bin").write_bytes(bytes(100))
    (tmp_path / "c.xlsx").write_bytes(b"PK\3\4")
    ref, row, *_ = files_in(tmp_path)
    assert (paths([ref]), isinstance(row, FileRow) and row.status) == (["a.md"], "skipped")
    assert paths(files_in(str(tmp_path), "*.md")) == ["a.md"]


def test_one_file_is_a_list_of_one(tmp_path: Path):
    """Its root is its folder."""
    (tmp_path / "a.md").write_text("# A\n")
    (ref,) = files_in(tmp_path / "a.md")
    assert isinstance(ref, FileRef)
    assert (ref.root, ref.path) == (str(tmp_path.resolve()), "a.md")


def test_the_files_of_a_list_are_told_below_the_folder_that_all_are_in(tmp_path: Path):
    """In the order of the list, whether they are there or not: who loads them says so. References stay as they are."""
    known = FileRef(root="/elsewhere", path="known.md")
    found = list(files_in([tmp_path / "b" / "two.md", tmp_path / "one.md", known]))
    assert paths(found) == ["b/two.md", "one.md", "known.md"]
    assert {one.root for one in found if isinstance(one, FileRef)} == {str(tmp_path.resolve()), "/elsewhere"}


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "bad\0name", "bad\udcffname"])
def test_a_path_that_leads_up_or_is_none_is_a_row(tmp_path: Path, name: str):
    """The others of the list are not harmed by it."""
    row, ref = files_in([f"{tmp_path}/{name}", tmp_path / "a.md"])
    assert isinstance(row, FileRow)
    assert row.status == "failed"
    assert isinstance(row.exception, FileNotAllowed | FileUnreadable)
    assert row.model_dump_json()
    assert paths([ref]) == ["a.md"]


def test_what_is_no_folder_is_refused(tmp_path: Path):
    """And a pattern for a list: it would be ignored."""
    with pytest.raises(FileUnreadable):
        list(files_in(tmp_path / "nowhere"))
    with pytest.raises(FileNotAllowed):
        list(files_in(tmp_path, allowed=["/elsewhere"]))
    with pytest.raises(InvalidRequest, match="leave out"):
        list(files_in([tmp_path / "a.md"], "*.md"))
