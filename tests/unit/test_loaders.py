"""From files to documents: each kind, in this process, which has no reason to fear these files."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kagura_tasks.errors import (
    ArchiveBomb,
    FileDamaged,
    FileEncrypted,
    FileTooLarge,
    PartRefused,
    UnsupportedFile,
)
from kagura_tasks.files.documents import Document
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.loaders import table
from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.table import LOADERS, loader_for
from kagura_tasks.files.loaders.xml_tree import ForbiddenXml, parse_xml
from kagura_tasks.files.media_types import BY_SUFFIX, detect
from kagura_tasks.files.parts import document_content, kind_of_part
from tests.support import files

LIMITS = FileLimits()


def source_of(name: str, content: bytes, limits: FileLimits = LIMITS) -> Source:
    return Source(name, detect(name, content[:8192]).media_type, len(content), io.BytesIO(content), limits)


def loaded(name: str, content: bytes | str, limits: FileLimits = LIMITS) -> Document:
    """The document, as a parser would make it."""
    data = content.encode() if isinstance(content, str) else content
    source = source_of(name, data, limits)
    out = Output(source)
    loader_for(name, source.media_type).load(source, out)
    about: dict[str, Any] = {"path": name, "media_type": source.media_type, "size_bytes": len(data)}
    return Document.model_validate({**out.document(), **about, "sha256": "0" * 64, "loader": "test/1"})


def titles(document: Document) -> list[tuple[str, str, str]]:
    """Each section's kind and title, and how its text begins."""
    return [(one.kind, one.title, document.text[one.start : one.end].split("\n")[0]) for one in document.sections]


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


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_what_says_its_encoding_is_read_without_loss(text: str, codec: str):
    """UTF-8, and all that begins with a byte order mark."""
    if text and not text.startswith("\ufeff"):
        assert loaded("a.txt", text.encode(codec)).text == text


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Größenwahn, Überfluß und müde Bären, die über Flüsse gehen.", "cp1252"),
        ("Un café déjà servi à l'hôtel où naît l'été, c'est très français.", "latin-1"),
        ("これは日本語の文章です。潮は月に引かれて満ち引きする。", "shift-jis"),
        ("これは日本語の文章です。潮は月に引かれて満ち引きする。", "euc-jp"),
        ("Zażółć gęślą jaźń i łódkę, która płynie pod prąd rzeki.", "cp1250"),
        ("Приливы и отливы вызваны притяжением Луны и Солнца.", "cp1251"),
        ("a text without a mark, and of Latin letters", "utf-16-le"),
    ],
)
def test_other_encodings_are_guessed_and_that_is_said(text: str, codec: str):
    """A guess may be wrong: the document says that it is one."""
    document = loaded("a.txt", text.encode(codec))
    assert document.text == text
    assert "its encoding is not declared" in document.warnings[0]


@given(content=st.binary(max_size=300))
def test_any_bytes_become_text(content: bytes):
    """No loader of text raises, whatever it is given."""
    for media_type in ("text/plain", "text/markdown", "text/html", "text/x-python", "application/json", "text/csv"):
        source = replace(source_of("a", content), media_type=media_type)
        out = Output(source)
        LOADERS[media_type].load(source, out)
        assert isinstance(str(out.document()["text"]).encode(), bytes)


def test_ends_of_lines_are_one():
    """Windows's and old Macs' become newlines."""
    assert loaded("a.txt", b"a\r\nb\rc\n").text == "a\nb\nc\n"


def test_headings_of_markdown_are_sections_and_code_is_not():
    """The text stays as it is; sections are next to each other, to the end."""
    text = "intro\n# One #\ntext\n```sh\n# no heading\n```\n## Two\n#no heading\n"
    document = loaded("a.md", text)
    assert document.text == text
    assert titles(document) == [("heading", "One", "# One #"), ("heading", "Two", "## Two")]
    assert [section.level for section in document.sections] == [1, 2]
    assert document.sections[0].end == document.sections[1].start
    assert document.sections[-1].end == len(text)


HTML = """<!doctype html><html><head><title>T</title><style>p {}</style><script>var x = "<p>no</p>";</script>
<body><h1>The <b>tides</b></h1><p>See <a href="/moon">the moon</a>, <a href="javascript:x()">not this</a>.<ul><li>neap
<li>spring</ul><table><tr><th>port<th>height<tr><td>Brest<td>6 | 7</table><pre>a
  b</pre><svg><text>drawn</text></svg><p>end"""


def test_html_becomes_markdown():
    """Headings, links, lists, tables and code, also where ends are left out; nothing of scripts and styles."""
    document = loaded("a.html", HTML)
    assert document.text.split("\n\n") == [
        "# The tides",
        "See [the moon](/moon), [not this].",
        "- neap\n- spring",
        "| port | height |\n| --- | --- |\n| Brest | 6 \\| 7 |",
        "```\na\n  b\n```",
        "end",
        "",
    ]
    assert titles(document) == [("heading", "The tides", "# The tides")]


def test_html_cells_hold_links_and_blocks():
    """What is in a cell stays in it; a table in a table comes after it."""
    text = "<table><tr><td><p>a <a href='/b'>b</a><br>c</p><ul><li>d</ul></table><p>e"
    assert loaded("a.html", text).text == "| a [b](/b) c d |\n| --- |\n\ne\n\n"
    spaced = "<table>\n <thead>\n <tr>\n <th>a</th>\n <th>b</th>\n </tr>\n <tr>\n <td>1</td>\n </tr>\n</table>"
    assert loaded("a.html", spaced).text == "| a | b |\n| --- | --- |\n| 1 |\n\n"


def test_html_is_read_in_the_encoding_that_it_declares():
    """Where it is no UTF-8."""
    document = loaded("a.html", '<meta charset="iso-8859-2"><p>Łódź'.encode("iso-8859-2"))
    assert (document.text, document.warnings) == ("Łódź\n\n", ())


@pytest.mark.parametrize("rows", ["a,b\n1,2\n", "a;b\n1;2\n", "a\tb\n1\t2\n", '"a",b\n1,"2"\n'])
def test_csv_becomes_a_table(rows: str):
    """With the delimiter that its first line has most of."""
    assert loaded("a.csv", rows).text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"


def test_uneven_rows_are_said():
    """They may be a sign of a broken file; they are there all the same."""
    document = loaded("a.csv", "a,b\n1\n2,3,4\n")
    assert document.warnings == ("2 of its rows have not as many cells as the first",)
    assert "| 2 | 3 | 4 |" in document.text


def test_json_stays_as_it_is_and_what_is_wrong_is_said():
    """Models read it. Brackets in brackets, or numbers of thousands of digits, crash nobody."""
    assert loaded("a.json", '{"a": [1, 2]}').text == '{"a": [1, 2]}'
    assert loaded("a.json", '{"a": 1').warnings == ("line 1 is not JSON (column 8)",)
    assert loaded("a.json", "[" * 100_000).warnings == ("is not JSON that can be read",)
    document = loaded("a.jsonl", '{"a": 1}\n\n{"a":\n')
    assert document.warnings == ("line 3 is not JSON (column 6)",)
    assert [section.title for section in document.sections] == ["line 1", "line 3"]


def test_definitions_in_code_are_sections():
    """Those at the left edge; the text stays as it is."""
    text = "import os\nclass Tide:\n    def up(self): ...\nasync def main():\n    pass\n"
    document = loaded("a.py", text)
    assert document.text == text
    assert [section.title for section in document.sections] == ["Tide", "main"]
    assert [one.title for one in loaded("a.ts", "export default function tide() {}").sections] == ["tide"]


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


def size_of(part: Any) -> tuple[int, int]:
    """A picture's size in pixels."""
    kind, _, data = part["image_url"]["url"].partition(";base64,")
    assert kind.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return picture.size


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


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_picture_that_models_do_not_take_becomes_one_that_they_do():
    """TIFF and BMP become PNG."""
    for form in ("TIFF", "BMP"):
        (part,) = loaded(f"a.{form.lower()}", files.picture(form)).parts
        assert "data:image/png;" in str(part)


def test_a_picture_of_too_many_pixels_is_refused():
    """A small file may be a large picture; it is not unpacked."""
    made = io.BytesIO()
    Image.new("1", (8000, 8000)).save(made, "PNG")
    assert len(made.getvalue()) < 20_000
    with pytest.raises(FileTooLarge, match="has 64,000,000 pixels"):
        loaded("a.png", made.getvalue())


def test_sound_and_film_are_parts():
    """In the forms that LiteLLM takes."""
    sound, film = files.wav(), files.mp4()
    (part,) = loaded("a.wav", sound).parts
    assert part == {"type": "input_audio", "input_audio": {"data": encoded(sound), "format": "wav"}}
    (part,) = loaded("a.mp4", film).parts
    assert part == {"type": "file", "file": {"file_data": f"data:video/mp4;base64,{encoded(film)}"}}


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


def document_with(*parts: dict[str, Any], text: str = "About.") -> Document:
    fields: dict[str, Any] = {"path": "a", "media_type": "x/y", "size_bytes": 1, "sha256": "0" * 64, "loader": "t/1"}
    return Document(text=text, parts=parts, **fields)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
FLAC = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "flac"}}
FILM = {"type": "file", "file": {"file_data": "data:video/mp4;base64,AA=="}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        ("gemini/gemini-2.5-flash", [IMAGE, SOUND, FLAC, FILM, PDF]),
        ("openai/gpt-4o-audio-preview", [IMAGE, SOUND, PDF]),
        ("gpt-4o", [IMAGE, SOUND, PDF]),
        ("anthropic/claude-sonnet-4-5", [IMAGE, PDF]),
        ("claude-sonnet-4-5", [IMAGE, PDF]),
        ("mistral/pixtral-large-latest", [IMAGE]),
        ("some/model", []),
    ],
)
def test_what_a_provider_does_not_take_is_refused(model: str, taken: Sequence[dict[str, Any]]):
    """Before anything is sent: LiteLLM drops sound for some without a word."""
    for part in (IMAGE, SOUND, FLAC, FILM, PDF):
        document = document_with(part)
        if part in taken:
            assert document_content(document, model) == [{"type": "text", "text": "About."}, part]
        else:
            with pytest.raises(PartRefused) as refused:
                document_content(document, model)
            assert (refused.value.path, refused.value.kind) == ("a", kind_of_part(part))


def test_text_alone_is_a_text_for_every_model():
    """And media without text are parts alone."""
    assert document_content(document_with(), "some/model") == "About."
    assert document_content(document_with(IMAGE, text=""), "gpt-4o") == [IMAGE]


def test_two_names_for_one_read_position_do_no_harm(tmp_path: Path):
    """A source begins at the file's beginning, wherever its descriptor stood."""
    (tmp_path / "a").write_text("text")
    file = os.open(tmp_path / "a", os.O_RDONLY)
    os.lseek(file, 2, os.SEEK_SET)
    source = Source.of({"path": "a", "media_type": "text/plain", "limits": {}}, file)
    with source.file:
        assert source.read() == b"text"


def test_a_limit_of_nothing_is_a_mistake():
    """It would refuse every file."""
    make: Callable[..., FileLimits] = FileLimits
    with pytest.raises(ValueError, match="max_pages is 0"):
        make(max_pages=0)
