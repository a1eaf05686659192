"""Files that are broken, shut, too large, or made to harm: each an error of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kagura_tasks.errors import (
    ArchiveBomb,
    FileDamaged,
    FileEncrypted,
    FileTooLarge,
    UnsupportedFile,
)
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.xml_tree import ForbiddenXml, parse_xml
from tests.support import files
from tests.support.loaders import loaded, source_of


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pdf", files.locked_pdf), ("a.docx", files.locked_docx), ("a.bin", files.locked_docx)],
)
def test_a_password_is_said(name: str, content: Callable[[], bytes]):
    """A typed error, whatever holds the file shut."""
    with pytest.raises(FileEncrypted, match="has a password"):
        loaded(name, content())


def test_a_member_with_a_password_is_said():
    """Also of an archive."""
    content = bytearray(files.docx())
    place = content.find(b"PK\x01\x02")
    content[place + 8] |= 1
    with pytest.raises(FileEncrypted):
        loaded("a.docx", bytes(content))


def test_an_archive_that_is_packed_in_an_unknown_way_is_said():
    """It is not broken: another program may read it."""
    content = bytearray(files.docx())
    for sign, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = -1
        while (place := content.find(sign, place + 1)) >= 0:
            content[place + offset] = 93  # Zstandard
    with pytest.raises(FileDamaged, match="packed in a way"):
        loaded("a.docx", bytes(content))


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.pptx", "a.epub"])
def test_a_file_that_is_cut_off_is_damaged(name: str):
    """Whatever its kind."""
    whole = {"a.pdf": files.pdf(), "a.docx": files.docx(), "a.pptx": files.pptx(), "a.epub": files.epub()}[name]
    with pytest.raises(FileDamaged):
        loaded(name, whole[: len(whole) * 2 // 3])


def test_another_old_office_file_is_not_read():
    """It has the container of one with a password, and none."""
    with pytest.raises(UnsupportedFile, match="x-ole-storage"):
        loaded("a.doc", files.locked_docx()[:500])


@pytest.mark.parametrize(
    ("name", "content", "limits", "says"),
    [
        ("a.txt", "x" * 101, {"max_text_chars": 100}, "FILE_MAX_TEXT_CHARS"),
        ("a.pdf", files.pdf(["1", "2", "3"]), {"max_pages": 2}, "FILE_MAX_PAGES"),
        ("a.pptx", files.pptx(["1", "2", "3"]), {"max_pages": 2}, "FILE_MAX_PAGES"),
        ("a.xlsx", files.xlsx(), {"max_pages": 1}, "FILE_MAX_PAGES"),
        ("a.epub", files.epub(), {"max_pages": 1}, "FILE_MAX_PAGES"),
        ("a.docx", files.docx(), {"max_unpacked_bytes": 500}, "FILE_MAX_UNPACKED_BYTES"),
        ("a.xlsx", files.xlsx(), {"max_unpacked_bytes": 500}, "FILE_MAX_UNPACKED_BYTES"),
        ("a.wav", files.wav(), {"max_media_bytes": 100}, "FILE_MAX_MEDIA_BYTES"),
        ("a.png", files.picture(), {"max_media_bytes": 10}, "FILE_MAX_MEDIA_BYTES"),
        ("a.pdf", files.pdf(["", "", ""]), {"max_media_bytes": 100}, "FILE_MAX_MEDIA_BYTES"),
    ],
    ids=files.short,
)
def test_a_limit_is_kept_and_named(name: str, content: bytes | str, limits: dict[str, int], says: str):
    """The error says what was found, what is allowed, and which setting moves it."""
    with pytest.raises(FileTooLarge, match=f"raise KAGURA_TASKS_{says}"):
        loaded(name, content, FileLimits(**limits))


def test_a_picture_of_too_many_pixels_is_refused():
    """A small file may be a large picture; it is not unpacked."""
    made = io.BytesIO()
    Image.new("1", (8000, 8000)).save(made, "PNG")
    assert len(made.getvalue()) < 20_000
    with pytest.raises(FileTooLarge, match="has 64,000,000 pixels"):
        loaded("a.png", made.getvalue())


def test_a_bomb_is_refused_by_what_it_says_it_unpacks_to(tmp_path: Path):
    """Before anything of it is unpacked."""
    files.write_docx_bomb(tmp_path / "a.docx", 100 << 20)
    content = (tmp_path / "a.docx").read_bytes()
    with pytest.raises(ArchiveBomb):
        loaded("a.docx", content)


def test_a_lie_about_sizes_gives_no_more_than_it_says(tmp_path: Path):
    """A bomb whose directory speaks of ten bytes is not unpacked further: it is damaged."""
    files.write_docx_bomb(tmp_path / "a.docx", 100 << 20)
    with pytest.raises(FileDamaged):
        loaded("a.docx", files.understate_sizes((tmp_path / "a.docx").read_bytes()))


def test_an_archive_is_bounded_over_all_its_members():
    """A thousand small bombs are a large one."""
    content = files.archive({f"{number}": bytes(1 << 20) for number in range(50)})
    with pytest.raises(ArchiveBomb):
        Archive(source_of("a.docx", content)).check_all()


ENTITIES = """<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><d>&b;</d>"""


OUTSIDE = """<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><d>&a;</d>"""


@pytest.mark.parametrize("text", [ENTITIES, OUTSIDE])
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_no_entity_is_declared(text: str, codec: str):
    """Neither one that grows nor one that reads another file, in any encoding."""
    with pytest.raises(ForbiddenXml):
        parse_xml(text.encode(codec))


def test_nesting_has_an_end():
    """A tree too deep to be walked is not built."""
    with pytest.raises(ForbiddenXml):
        parse_xml(b"<d>" * 10_000)
    assert loaded("a.html", "<div>" * 50_000 + "text").text == "text\n\n"


def test_a_limit_of_nothing_is_a_mistake():
    """It would refuse every file."""
    make: Callable[..., FileLimits] = FileLimits
    with pytest.raises(ValueError, match="max_pages is 0"):
        make(max_pages=0)
