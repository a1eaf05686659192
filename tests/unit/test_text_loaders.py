"""Text in any encoding, Markdown, HTML, tables, JSON, source code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.files.loaders.source import Output
from kagura_tasks.files.loaders.table import LOADERS
from tests.support.loaders import loaded, source_of, titles


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
