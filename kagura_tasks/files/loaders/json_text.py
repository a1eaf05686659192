"""JSON and JSONL, as they are: models read them. What is wrong with them is a warning; it is text all the same."""

from __future__ import annotations

import json

from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.source import Output, Source


def load(source: Source, out: Output) -> None:
    """Take the text as it is; of JSONL, each line that is not blank is a section."""
    text = decoded(source.read(), out)
    if source.media_type != "application/jsonl":
        _check(text, 1, out)
        out.write(text)
        return
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.strip():
            _check(line.rstrip(), number, out)
            out.section("record", f"line {number}")
        out.write(line)


def _check(text: str, first_line: int, out: Output) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        out.warn(f"line {first_line + error.lineno - 1} is not JSON (column {error.colno})")
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets in brackets in brackets
        out.warn("is not JSON that can be read")
