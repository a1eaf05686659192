"""Source code, as it is, with what begins at its left edge as sections."""

from __future__ import annotations

import re
from typing import Final

from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.source import Output, Source

_MODIFIERS: Final = (
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub|unsafe)\s+)"
)
_KINDS: Final = r"(?:class|def|func|function|fn|interface|struct|enum|trait|impl|module|namespace|object|record|type)"
_DEFINITION: Final = re.compile(rf"{_MODIFIERS}{{0,4}}{_KINDS}\s+([\w.<>$]{{1,100}})")
_DECLARED: Final = re.compile(rb"coding[:=]\s*([-\w.]{1,30})")


def load(source: Source, out: Output) -> None:
    """Take the text as it is."""
    data = source.read()
    declared = _DECLARED.search(b"".join(data[:1000].splitlines(keepends=True)[:2]))
    for line in decoded(data, out, declared[1].decode() if declared else "").splitlines(keepends=True):
        if definition := _DEFINITION.match(line):
            out.section("heading", definition[1])
        out.write(line)
