"""Plain text, as it is."""

from __future__ import annotations

from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.source import Output, Source


def load(source: Source, out: Output) -> None:
    """Take the text as it is."""
    out.write(decoded(source.read(), out))
