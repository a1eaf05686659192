"""PDF: a section for each page. A page without text becomes a picture, which a model can read (extra `ocr`)."""

from __future__ import annotations

import io
import logging
from importlib import import_module
from typing import Any, Final

from pypdf import PdfReader
from pypdf.errors import DependencyError, EmptyFileError, FileNotDecryptedError, PdfReadError

from kagura_tasks.errors import FileDamaged, FileEncrypted
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.table import is_installed

#: Dots per inch at which small print can still be read, where the page is no larger than the limit of pictures.
_DPI: Final = 150
_POINTS_PER_INCH: Final = 72


def load(source: Source, out: Output) -> None:
    """Write the pages."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(source.file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise FileEncrypted(source.path)
        out.check_pages(len(reader.pages))
        blank = _write_pages(reader, out)
    except (FileNotDecryptedError, DependencyError):
        raise FileEncrypted(source.path) from None
    except (PdfReadError, EmptyFileError):
        raise FileDamaged(source.path, "its PDF is cut off or broken") from None
    if blank:
        _show_pages(source, blank, out)


def _write_pages(reader: PdfReader, out: Output) -> list[int]:
    """Write what is text; the numbers of the pages that have none, from 1."""
    blank: list[int] = []
    for page in reader.pages:
        number = out.page("page")
        text = page.extract_text().strip()
        if text:
            # Some files map letters to halves of surrogate pairs.
            out.paragraph(text.encode("utf-8", "replace").decode())
        else:
            blank.append(number)
    if not reader.pages:
        out.warn("it has no page")
    return blank


def _show_pages(source: Source, numbers: list[int], out: Output) -> None:
    named = f"{len(numbers)} of its pages have no text (the first: {numbers[0]})"
    if not (is_installed("pypdfium2") and is_installed("PIL")):
        out.warn(f"{named}, and are left out: pip install 'kagura-tasks[ocr]' sends them to the model as pictures")
        return
    out.warn(f"{named}, and are sent as pictures")
    pypdfium: Any = import_module("pypdfium2")  # it has no types
    source.file.seek(0)
    rendered = pypdfium.PdfDocument(source.file)
    for number in numbers:
        page = rendered[number - 1]
        longest_px = max(page.get_size()) * _DPI / _POINTS_PER_INCH
        scale = _DPI / _POINTS_PER_INCH * min(1.0, source.limits.max_image_px / longest_px)
        picture = page.render(scale=scale).to_pil().convert("L")
        picture.thumbnail((source.limits.max_image_px, source.limits.max_image_px))  # it rounds up
        written = io.BytesIO()
        picture.save(written, "PNG", optimize=True)
        out.media("image", "image/png", written.getvalue())
