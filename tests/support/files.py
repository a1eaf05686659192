"""Small files of every kind, made when they are needed: sound ones, broken ones and hostile ones."""

from __future__ import annotations

import io
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image
from pypdf import PdfReader, PdfWriter

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
A = "http://schemas.openxmlformats.org/drawingml/2006/main"
P = "http://schemas.openxmlformats.org/presentationml/2006/main"
S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELS = "http://schemas.openxmlformats.org/package/2006/relationships"

CONTENT_TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/></Types>"""


def archive(members: Mapping[str, str | bytes]) -> bytes:
    """A zip file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return made.getvalue()


def relations(*found: tuple[str, str, str]) -> str:
    """A part's relations: id, kind, target."""
    lines = "".join(f'<Relationship Id="{one}" Type="{R}/{kind}" Target="{to}"/>' for one, kind, to in found)
    return f'<Relationships xmlns="{RELS}">{lines}</Relationships>'


def docx(body: str | None = None, **parts: str) -> bytes:
    """A Word file: a heading, two paragraphs, a list item, a table, a deleted run, a footnote."""
    paragraph = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>".format
    if body is None:
        heading = '<w:p><w:pPr><w:pStyle w:val="berschrift1"/></w:pPr><w:r><w:t>Tides</w:t></w:r></w:p>'
        item = '<w:p><w:pPr><w:numPr><w:ilvl w:val="0"/></w:numPr></w:pPr><w:r><w:t>neap tide</w:t></w:r></w:p>'
        deleted = "<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>"
        row = "<w:tr>{}</w:tr>".format
        cell = "<w:tc>{}</w:tc>".format
        rows = [("port", "height"), ("Brest", "6 | 7 m")]
        table = "".join(row("".join(cell(paragraph(text)) for text in one)) for one in rows)
        body = f"{heading}{paragraph('The sea rises &amp; falls.')}{item}{deleted}<w:tbl>{table}</w:tbl>"
    note = f'<w:footnotes xmlns:w="{W}"><w:footnote w:type="separator"/><w:footnote>{paragraph("See Newton.")}'
    styles = (
        f'<w:styles xmlns:w="{W}"><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style></w:styles>'
    )
    return archive(
        {
            "[Content_Types].xml": CONTENT_TYPES,
            "_rels/.rels": relations(("r1", "officeDocument", "word/document.xml")),
            "word/_rels/document.xml.rels": relations(
                ("r1", "styles", "styles.xml"), ("r2", "footnotes", "footnotes.xml")
            ),
            "word/document.xml": f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>',
            "word/styles.xml": styles,
            "word/footnotes.xml": f"{note}</w:footnote></w:footnotes>",
            **parts,
        }
    )


def pptx(titles: Sequence[str] = ("Tides", "Moons")) -> bytes:
    """A presentation: a title, a line and a note on each slide. The files stand in another order than the slides."""
    count = len(titles)
    names = {number: count - number for number in range(count)}
    ids = "".join(f'<p:sldId id="{256 + number}" r:id="r{number}"/>' for number in range(count))
    main = f'<p:presentation xmlns:p="{P}" xmlns:r="{R}"><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>'
    parts = {
        "[Content_Types].xml": CONTENT_TYPES,
        "ppt/presentation.xml": main,
        "ppt/_rels/presentation.xml.rels": relations(
            *((f"r{number}", "slide", f"slides/slide{names[number]}.xml") for number in range(count))
        ),
    }
    for number, title in enumerate(titles):
        name = names[number]
        parts[f"ppt/slides/slide{name}.xml"] = _slide(_shape("title", title) + _shape("", f"About {title}"))
        parts[f"ppt/slides/_rels/slide{name}.xml.rels"] = relations(
            ("r1", "notesSlide", f"../notesSlides/notesSlide{name}.xml")
        )
        parts[f"ppt/notesSlides/notesSlide{name}.xml"] = _slide(_shape("body", f"Say {title}"))
    return archive(parts)


def _slide(shapes: str) -> str:
    return f'<p:sld xmlns:p="{P}" xmlns:a="{A}"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>'


def _shape(placeholder: str, text: str) -> str:
    kind = f'<p:nvSpPr><p:nvPr><p:ph type="{placeholder}"/></p:nvPr></p:nvSpPr>' if placeholder else ""
    return f"<p:sp>{kind}<p:txBody><a:p><a:r><a:t>{escape(text)}</a:t></a:r></a:p></p:txBody></p:sp>"


def xlsx(sheets: Mapping[str, Sequence[Sequence[str | float]]] | None = None) -> bytes:
    """A workbook."""
    sheets = sheets or {"Ports": [["port", "height"], ["Brest", 6.5], ["Kiel", 1]], "Empty": []}
    names = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
    parts = {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": relations(("r1", "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{S}" xmlns:r="{R}"><sheets>{names}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(
            *((f"r{n}", "worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1))
        ),
    }
    for number, rows in enumerate(sheets.values(), 1):
        lines = "".join(
            f'<row r="{r}">{"".join(_cell(f"{chr(65 + c)}{r}", value) for c, value in enumerate(row))}</row>'
            for r, row in enumerate(rows, 1)
        )
        parts[f"xl/worksheets/sheet{number}.xml"] = f'<worksheet xmlns="{S}"><sheetData>{lines}</sheetData></worksheet>'
    return archive(parts)


def _cell(place: str, value: str | float) -> str:
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    return f'<c r="{place}"><v>{value}</v></c>'


def epub(chapters: Sequence[str] = ("<h1>One</h1><p>It began.</p>", "<h1>Two</h1><p>It ended.</p>")) -> bytes:
    """A book."""
    items = "".join(f'<item id="c{n}" href="text/{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    container = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    return archive(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{f"OEBPS/text/{n}.xhtml": f"<html><body>{text}</body></html>" for n, text in enumerate(chapters)},
        }
    )


def pdf(pages: Sequence[str] = ("The first page.", "The second page.")) -> bytes:
    """A PDF with a line of text on each page; an empty one where the text is empty."""
    objects: list[bytes] = []
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    font = 3 + 2 * len(pages)
    objects.append(b"<< /Type /Catalog /Pages 2 0 R >>")
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    for number, text in enumerate(pages):
        drawn = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode("cp1252") if text else b"0 0 612 792 re f"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * number} 0 R "
            f"/Resources << /Font << /F1 {font} 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    return pdf_of(objects)


def pdf_of(objects: Iterable[bytes]) -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalog."""
    made, places = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    made += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, start)
    return bytes(made)


def slow_pdf(words: int = 1_000_000) -> bytes:
    """A PDF of 10 KB that says one word a million times: it is sound, and its parser is at it for a minute."""
    fonts = b"/Resources << /Font << /F1 5 0 R >> >>"
    drawn = zlib.compress(b"BT /F1 9 Tf " + b"(a) Tj " * words + b"ET")
    return pdf_of(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R %s >>" % fonts,
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(drawn), drawn),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
    )


def locked_pdf(password: str = "secret") -> bytes:
    """A PDF with a password."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf())))
    writer.encrypt(password, algorithm="RC4-128")
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def locked_docx() -> bytes:
    """What Office makes of a document with a password: another container, with a stream of a known name."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000) + "EncryptedPackage".encode("utf-16-le") + bytes(1000)


def picture(form: str = "PNG", size: tuple[int, int] = (32, 16)) -> bytes:
    """A picture."""
    made = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(made, form)
    return made.getvalue()


def wav() -> bytes:
    """A tenth of a second of silence."""
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    return made.getvalue()


def mp4() -> bytes:
    """As much of a film as says that it is one."""
    return struct.pack(">I", 32) + b"ftypisom" + bytes(4) + b"isomiso2avc1mp41" + bytes(64)


def write_docx_bomb(path: Path, unpacked_bytes: int) -> None:
    """A Word file whose text is spaces: a thousandth of what it unpacks to, written piece by piece."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("[Content_Types].xml", CONTENT_TYPES)
        with packed.open("word/document.xml", "w", force_zip64=True) as part:
            part.write(f'<w:document xmlns:w="{W}"><w:body><w:p><w:r><w:t>'.encode())
            for _ in range(unpacked_bytes // (1 << 20)):
                part.write(b" " * (1 << 20))
            part.write(b"</w:t></w:r></w:p></w:body></w:document>")


def understate_sizes(data: bytes, size_bytes: int = 10) -> bytes:
    """The same archive, whose directory says that each member unpacks to `size_bytes`."""
    changed, place = bytearray(data), 0
    while (place := changed.find(b"PK\x01\x02", place)) >= 0:
        changed[place + 24 : place + 28] = struct.pack("<I", size_bytes)
        place += 4
    return bytes(changed)


def short(value: object) -> str:
    """A parameter's part in a test's name: bytes are other ones in each process."""
    return value if isinstance(value, str) and len(value) < 40 else ""


#: One of each kind that is read.
SAMPLES: dict[str, Callable[[], bytes]] = {
    "notes.txt": lambda: "Ebbe und Flut: größer".encode(),
    "readme.md": lambda: b"# Title\n\nText.\n\n## Part\n\nMore.\n",
    "page.html": lambda: b"<html><body><h1>Title</h1><p>Text <a href='/x'>link</a></p></body></html>",
    "rows.csv": lambda: b"port,height\nBrest,6.5\n",
    "rows.tsv": lambda: b"port\theight\nBrest\t6.5\n",
    "data.json": lambda: b'{"port": "Brest"}',
    "lines.jsonl": lambda: b'{"a": 1}\n{"a": 2}\n',
    "code.py": lambda: b"import os\n\n\ndef tide() -> int:\n    return 1\n",
    "paper.pdf": pdf,
    "letter.docx": docx,
    "talk.pptx": pptx,
    "table.xlsx": xlsx,
    "book.epub": epub,
    "photo.png": picture,
    "photo.jpg": lambda: picture("JPEG"),
    "scan.tiff": lambda: picture("TIFF"),
    "sound.wav": wav,
    "film.mp4": mp4,
}
