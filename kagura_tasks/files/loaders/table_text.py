"""CSV and TSV, as tables in Markdown's form."""

from __future__ import annotations

import csv
import io
from typing import Final

from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.source import Output, Source

_DELIMITERS: Final = ",;\t|"
_MAX_CELL_CHARS: Final = 1_000_000


def load(source: Source, out: Output) -> None:
    """Write the table. The delimiter of CSV is the one that its first line has most of."""
    text = decoded(source.read(), out)
    first = text.partition("\n")[0]
    is_tsv = source.media_type == "text/tab-separated-values"
    delimiter = "\t" if is_tsv else max(_DELIMITERS, key=first.count)
    csv.field_size_limit(_MAX_CELL_CHARS)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    uneven = sum(len(row) != len(rows[0]) for row in rows)
    if uneven:
        out.warn(f"{uneven:,} of its rows have not as many cells as the first")
    out.table(rows)
