"""From files to documents: each kind, in this process, which has no reason to fear these files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kagura_tasks.errors import UnsupportedFile
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.loaders import table
from kagura_tasks.files.loaders.source import Source
from kagura_tasks.files.loaders.table import LOADERS, loader_for
from kagura_tasks.files.media_types import BY_SUFFIX
from tests.support import files
from tests.support.loaders import encoded, loaded, size_of, titles


def test_every_type_that_a_name_can_promise_has_a_loader():
    """No line of one table is missing in the other."""
    assert set(BY_SUFFIX.values()) <= set(LOADERS)
    for loader in LOADERS.values():
        assert Path(table.__file__).with_name(f"{loader.name}.py").is_file()


@pytest.mark.parametrize("name", files.SAMPLES)
def test_every_kind_becomes_text_or_parts(name: str):
    """And says nothing of trouble where there is none."""
    document = loaded(name, files.SAMPLES[name]())
    assert document.text.strip() or document.parts
    assert document.warnings == ()


def test_a_pdf_has_a_section_a_page():
    """With the page's text."""
    document = loaded("a.pdf", files.pdf(["One.", "Two."]))
    assert (document.pages, document.parts) == (2, ())
    assert titles(document) == [("page", "", "One."), ("page", "", "Two.")]


def test_pages_without_text_become_pictures():
    """A scan is for the model to read; how many there are is said."""
    document = loaded("a.pdf", files.pdf(["One.", "", ""]), FileLimits(max_image_px=500))
    assert document.warnings == ("2 of its pages have no text (the first: 2), and are sent as pictures",)
    assert [size_of(part) for part in document.parts] == [(386, 500)] * 2


def test_without_the_extra_pages_without_text_are_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    """The warning names the extra."""
    monkeypatch.setattr("kagura_tasks.files.loaders.pdf.is_installed", lambda name: False)
    document = loaded("a.pdf", files.pdf(["One.", ""]))
    assert (document.parts, document.pages) == ((), 2)
    assert "pip install 'kagura-tasks[ocr]'" in document.warnings[0]


def test_a_word_file_becomes_markdown():
    """Headings by style in any language, lists, tables, notes. What was deleted stays deleted."""
    document = loaded("a.docx", files.docx())
    assert document.text.split("\n\n") == [
        "# Tides",
        "The sea rises & falls.",
        "- neap tide",
        "kept",
        "| port | height |\n| --- | --- |\n| Brest | 6 \\| 7 m |",
        "# Footnotes",
        "See Newton.",
        "",
    ]
    assert [section.title for section in document.sections] == ["Tides", "Footnotes"]


def test_what_is_left_out_of_an_office_file_is_said():
    """Pictures, charts and the like are no text."""
    related = files.relations(("r1", "image", "media/a.png"), ("r2", "chart", "charts/a.xml"))
    document = loaded("a.docx", files.docx(**{"word/_rels/document.xml.rels": related}))
    assert document.warnings == ("its pictures are left out", "its charts are left out")


def test_a_table_in_a_table_is_text_of_its_cell():
    """Nothing of it is lost."""
    paragraph = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>".format
    inner = f"<w:tbl><w:tr><w:tc>{paragraph('inner')}</w:tc></w:tr></w:tbl>"
    body = f"<w:tbl><w:tr><w:tc>{paragraph('outer')}{inner}</w:tc></w:tr></w:tbl>"
    assert loaded("a.docx", files.docx(body)).text.startswith("| outer inner |\n")


def test_slides_come_in_the_order_in_which_they_are_shown():
    """With title, text and notes; the names of the files say nothing of the order."""
    document = loaded("a.pptx", files.pptx(["Tides", "Moons", "Winds"]))
    assert (document.pages, [section.title for section in document.sections]) == (3, ["Tides", "Moons", "Winds"])
    assert document.text.startswith("# Slide 1: Tides\n\nAbout Tides\n\nNotes: Say Tides\n\n# Slide 2: Moons\n\n")


def test_sheets_become_tables():
    """A section each, also for an empty one."""
    document = loaded("a.xlsx", files.xlsx())
    assert [section.title for section in document.sections] == ["Ports", "Empty"]
    assert "# Ports\n\n| port | height |\n| --- | --- |\n| Brest | 6.5 |\n| Kiel | 1 |\n" in document.text


def test_chapters_come_in_reading_order():
    """As the book's spine says, as Markdown."""
    document = loaded("a.epub", files.epub())
    assert document.text == "# One\n\nIt began.\n\n# Two\n\nIt ended.\n\n"
    assert document.pages == 2


def test_a_large_picture_is_scaled_down():
    """And only then: others travel as they are."""
    small, large = files.picture("JPEG", (100, 50)), files.picture("JPEG", (1000, 500))
    limits = FileLimits(max_image_px=200)
    (part,) = loaded("a.jpg", small, limits).parts
    assert part == {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded(small)}"}}
    document = loaded("a.jpg", large, limits)
    assert size_of(document.parts[0]) == (200, 100)
    assert document.warnings == ("it was scaled down from 1000 x 500 pixels",)


def test_a_picture_that_models_do_not_take_becomes_one_that_they_do():
    """TIFF and BMP become PNG."""
    for form in ("TIFF", "BMP"):
        (part,) = loaded(f"a.{form.lower()}", files.picture(form)).parts
        assert "data:image/png;" in str(part)


def test_sound_and_film_are_parts():
    """In the forms that LiteLLM takes."""
    sound, film = files.wav(), files.mp4()
    (part,) = loaded("a.wav", sound).parts
    assert part == {"type": "input_audio", "input_audio": {"data": encoded(sound), "format": "wav"}}
    (part,) = loaded("a.mp4", film).parts
    assert part == {"type": "file", "file": {"file_data": f"data:video/mp4;base64,{encoded(film)}"}}


def test_an_unknown_type_is_refused_by_its_name():
    """And one that an extra would read, with the extra."""
    with pytest.raises(UnsupportedFile, match="is application/zip, which is not read"):
        loader_for("a.zip", "application/zip")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    """So that it can be installed."""
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    monkeypatch.setattr(table, "is_installed", lambda name: name != "python_calamine")
    with pytest.raises(UnsupportedFile, match=r"pip install 'kagura-tasks\[office\]'"):
        loaded("a.xlsx", files.xlsx())


def test_without_pillow_pictures_travel_as_they_are(monkeypatch: pytest.MonkeyPatch):
    """Those that models take; nobody looked into them, and that is said."""
    monkeypatch.setattr("kagura_tasks.files.loaders.image.is_installed", lambda name: False)
    document = loaded("a.png", files.picture())
    assert len(document.parts) == 1
    assert "kagura-tasks[images]" in document.warnings[0]


def test_two_names_for_one_read_position_do_no_harm(tmp_path: Path):
    """A source begins at the file's beginning, wherever its descriptor stood."""
    (tmp_path / "a").write_text("text")
    file = os.open(tmp_path / "a", os.O_RDONLY)
    os.lseek(file, 2, os.SEEK_SET)
    source = Source.of({"path": "a", "media_type": "text/plain", "limits": {}}, file)
    with source.file:
        assert source.read() == b"text"
