"""XLSX, XLS and ODS: a section for each sheet, as a table of what its cells show. Formulas are their last results."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

from python_calamine import CalamineWorkbook, PasswordError

from kagura_tasks.errors import FileEncrypted
from kagura_tasks.files import media_types
from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.source import Output, Source


def load(source: Source, out: Output) -> None:
    """Write the sheets."""
    if source.media_type != media_types.XLS:
        Archive(source).check_all()
        source.file.seek(0)
    try:
        book: Any = CalamineWorkbook.from_filelike(source.file)
    except PasswordError:
        raise FileEncrypted(source.path) from None
    out.check_pages(len(book.sheet_names))
    for name in book.sheet_names:
        out.page("sheet", name)
        out.paragraph(f"# {name}")
        rows = [[_shown(cell) for cell in row] for row in book.get_sheet_by_name(name).to_python()]
        if rows := [row for row in rows if any(row)]:
            out.table(rows)


def _shown(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    # A date is stored as a time of day, too.
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    return str(cell)
