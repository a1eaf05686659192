"""What a loader is given, and what it writes to. The limits are kept here, so that no loader can forget them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, cast

from kagura_tasks.errors import FileTooLarge
from kagura_tasks.files.limits import FileLimits, setting_of

#: More sections than this say nothing any more, and cost memory.
_MAX_SECTIONS: Final = 20_000
_MAX_WARNINGS: Final = 50
_MAX_TITLE_CHARS: Final = 200

MediaKind = Literal["image", "audio", "video"]


@dataclass(frozen=True)
class Source:
    """A file to load.

    Attributes:
        path: What errors call it.
        media_type: What it is.
        size_bytes: Its size.
        file: Open, at its beginning.
        limits: What it may ask of us.
    """

    path: str
    media_type: str
    size_bytes: int
    file: BinaryIO
    limits: FileLimits

    @classmethod
    def of(cls, question: dict[str, object], file: int) -> Source:
        """The file that a question is about."""
        opened = os.fdopen(file, "rb")
        opened.seek(0)  # the offset is shared with whoever opened it
        return cls(
            path=str(question["path"]),
            media_type=str(question["media_type"]),
            size_bytes=os.fstat(file).st_size,
            file=opened,
            limits=FileLimits(**cast("dict[str, int]", question["limits"])),
        )

    def read(self) -> bytes:
        """All of it."""
        return self.file.read(self.limits.max_bytes)

    def too_large(self, found: int, limit: str, unit: str) -> FileTooLarge:
        """The error for more of something than a limit allows."""
        return FileTooLarge(self.path, found, int(getattr(self.limits, limit)), unit, setting_of(limit))


class Output:
    """A document while it is written."""

    def __init__(self, source: Source) -> None:
        """Nothing is written yet."""
        self._source = source
        self._texts: list[str] = []
        self._length = 0
        self._sections: list[dict[str, object]] = []
        self._parts: list[dict[str, object]] = []
        self._media_bytes = 0
        self._pages: int | None = None
        self._warnings: list[str] = []

    def write(self, text: str) -> None:
        """Add text. Raises FileTooLarge."""
        self._length += len(text)
        if self._length > self._source.limits.max_text_chars:
            raise self._source.too_large(self._length, "max_text_chars", "characters of text")
        self._texts.append(text)

    def paragraph(self, text: str) -> None:
        """Add a block of text, and a blank line after it. Of blanks alone nothing is added."""
        if text.strip():
            self.write(text.strip("\n") + "\n\n")

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Add a table, in Markdown's form; its first row is its head."""
        for number, row in enumerate(rows):
            self.write(f"| {' | '.join(map(_cell, row))} |\n")
            if number == 0:
                self.write("|" + " --- |" * len(row) + "\n")
        self.write("\n")

    def section(self, kind: str, title: str = "", level: int = 1) -> None:
        """Begin a natural part here."""
        if len(self._sections) == _MAX_SECTIONS:
            self.warn(f"only the first {_MAX_SECTIONS:,} sections are marked")
            return
        title = " ".join(title.split())[:_MAX_TITLE_CHARS]
        self._sections.append({"kind": kind, "title": title, "level": level, "start": self._length})

    def heading(self, title: str, level: int) -> None:
        """Begin a part with a heading, which is written in Markdown's form."""
        if title.strip():
            self.section("heading", title, level)
            self.paragraph("#" * min(level, 6) + " " + " ".join(title.split()))

    def page(self, kind: str, title: str = "") -> int:
        """Begin a page, a slide, a sheet or a chapter; its number from 1. Raises FileTooLarge."""
        self._pages = (self._pages or 0) + 1
        self.check_pages(self._pages)
        self.section(kind, title)
        return self._pages

    def check_pages(self, count: int) -> None:
        """Raise FileTooLarge where these are too many."""
        if count > self._source.limits.max_pages:
            raise self._source.too_large(count, "max_pages", "pages")

    def media(self, kind: MediaKind, media_type: str, data: bytes) -> None:
        """Add a picture, sound or film as a content part in LiteLLM's form. Raises FileTooLarge."""
        self._media_bytes += len(data)
        if self._media_bytes > self._source.limits.max_media_bytes:
            raise self._source.too_large(self._media_bytes, "max_media_bytes", "bytes of media")
        encoded = base64.b64encode(data).decode()
        url = f"data:{media_type};base64,{encoded}"
        if kind == "image":
            self._parts.append({"type": "image_url", "image_url": {"url": url}})
        elif kind == "audio":
            name = media_type.partition("/")[2].removeprefix("x-")
            audio = {"data": encoded, "format": "mp3" if name == "mpeg" else name}
            self._parts.append({"type": "input_audio", "input_audio": audio})
        else:
            self._parts.append({"type": "file", "file": {"file_data": url}})

    def warn(self, warning: str) -> None:
        """Say what may be missing, or was guessed; once."""
        if warning not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(warning)

    def document(self) -> dict[str, object]:
        """All that was written."""
        text = "".join(self._texts)
        ends = [section["start"] for section in self._sections[1:]] + [len(text)]
        return {
            "text": text,
            "parts": self._parts,
            "pages": self._pages,
            "sections": [{**one, "end": end} for one, end in zip(self._sections, ends, strict=False)],
            "warnings": self._warnings,
        }


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
