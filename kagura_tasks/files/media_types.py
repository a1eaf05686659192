"""What a file is. Its content says so first; its name decides where content cannot: among kinds of text."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Final

#: So much of a file says what it is.
HEAD_BYTES: Final = 8192

UNKNOWN: Final = "application/octet-stream"
PLAIN: Final = "text/plain"

DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PPTX: Final = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
EPUB: Final = "application/epub+zip"
ODS: Final = "application/vnd.oasis.opendocument.spreadsheet"
XLS: Final = "application/vnd.ms-excel"
#: The container of old Office files, and of new ones with a password.
OLE: Final = "application/x-ole-storage"
ZIP: Final = "application/zip"

#: What a name promises: each type, and the suffixes that stand for it.
_SUFFIXES: Final = {
    PLAIN: "txt text log rst",
    "text/markdown": "md markdown",
    "text/html": "html htm xhtml",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "application/json": "json",
    "application/jsonl": "jsonl ndjson",
    "text/xml": "xml svg",
    "text/x-python": "py pyi",
    "text/javascript": "js mjs jsx",
    "text/x-typescript": "ts tsx",
    "text/x-java": "java",
    "text/x-kotlin": "kt",
    "text/x-go": "go",
    "text/x-rust": "rs",
    "text/x-c": "c h",
    "text/x-c++": "cpp cc hpp",
    "text/x-csharp": "cs",
    "text/x-ruby": "rb",
    "text/x-php": "php",
    "text/x-swift": "swift",
    "text/x-scala": "scala",
    "text/x-sh": "sh bash",
    "text/x-sql": "sql",
    "text/x-lua": "lua",
    "text/x-r": "r",
    "text/x-perl": "pl",
    "text/css": "css",
    "text/x-toml": "toml",
    "text/x-yaml": "yaml yml",
    "text/x-ini": "ini cfg",
    "application/pdf": "pdf",
    DOCX: "docx",
    XLSX: "xlsx xlsm",
    PPTX: "pptx",
    EPUB: "epub",
    ODS: "ods",
    XLS: "xls",
    "image/png": "png",
    "image/jpeg": "jpg jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/bmp": "bmp",
    "image/tiff": "tif tiff",
    "audio/x-wav": "wav",
    "audio/mpeg": "mp3",
    "audio/x-flac": "flac",
    "audio/ogg": "ogg",
    "audio/mp4": "m4a",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
}
BY_SUFFIX: Final = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}

#: Kinds of text: where the content is text, the name decides among these.
_NAMED_TEXT: Final = frozenset(kind for kind in BY_SUFFIX.values() if kind.startswith("text/")) | {
    "application/json",
    "application/jsonl",
}

#: Archives whose kind is only known when they are opened: the name decides among these.
_NAMED_ZIPS: Final = frozenset({DOCX, XLSX, PPTX, EPUB, ODS})

#: In the first bytes of an archive, the name of a part that only one kind has.
_ZIP_MARKS: Final = (
    (b"mimetypeapplication/epub+zip", EPUB),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", ODS),
    (b"word/", DOCX),
    (b"xl/", XLSX),
    (b"ppt/", PPTX),
)

#: Written in letters, and no text that anybody reads.
_TEXT_MARKS: Final = ((b"{\\rtf", "application/rtf"), (b"%!PS-Adobe", "application/postscript"))

_BOMS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)

#: Control characters that no text has.
_NO_TEXT: Final = ({*range(32)} | {127}) - {*b"\t\n\v\f\r\b\x1b"}
_TEXT_BYTES: Final = bytes({*range(256)} - _NO_TEXT)


@dataclass(frozen=True)
class Detected:
    """The type that is gone by, and what the name promised where that was another one."""

    media_type: str
    warning: str = ""


def detect(name: str, head: bytes) -> Detected:
    """What a file is, by its name and its first HEAD_BYTES. An empty file is what its name promises, or plain text."""
    promised = BY_SUFFIX.get(PurePosixPath(name).suffix.lower().removeprefix("."), "")
    found = _by_content(head, promised) if head else promised or PLAIN
    if not promised or found == promised:
        return Detected(found)
    return Detected(found, f"its name promises {promised}, its content is {found}")


def _by_content(head: bytes, promised: str) -> str:
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(head, promised)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return promised if promised == XLS else OLE
    if known := _by_signature(head, promised):
        return known
    if _is_text(head, promised):
        return promised if promised in _NAMED_TEXT else _text_kind(head)
    return UNKNOWN


def _zip_kind(head: bytes, promised: str) -> str:
    is_office = b"[Content_Types].xml" in head or b"mimetype" in head
    marks = [kind for mark, kind in _ZIP_MARKS if is_office and mark in head]
    if marks:
        return promised if promised in marks else marks[0]
    return promised if promised in _NAMED_ZIPS else ZIP


def _by_signature(head: bytes, promised: str) -> str:
    # PDF readers accept rubbish in front of the header.
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    if _is_text(head, promised):
        # Signatures of some kinds are two letters, with which a text may begin. These are longer.
        return next((kind for mark, kind in _TEXT_MARKS if head.startswith(mark)), "")
    guess: Any = import_module("filetype").guess_mime  # it has no types
    return guess(head) or ""


def _is_text(head: bytes, promised: str) -> bool:
    """There is no zero in it, and little else that no text has: logs have a stray control character now and then."""
    if head.startswith(_BOMS) or _is_utf16(head):
        return True
    strays = len(head.translate(None, delete=_TEXT_BYTES))
    return b"\0" not in head and strays <= len(head) // (10 if promised in _NAMED_TEXT else 50)


def _is_utf16(head: bytes) -> bool:
    """Text of mostly Latin letters without a byte order mark: every other byte is 0."""
    even, odd = head[0::2], head[1::2]
    if len(head) < 16 or (len(head) % 2 and len(head) < HEAD_BYTES):
        return False
    zeros, others = sorted((even, odd), key=lambda half: half.count(0), reverse=True)
    return zeros.count(0) > 0.9 * len(zeros) and not others.translate(None, delete=_TEXT_BYTES)


def _text_kind(head: bytes) -> str:
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:100].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    return "text/xml" if start.startswith(b"<?xml") else PLAIN
