"""Markdown, as it is, with its headings as sections."""

from __future__ import annotations

import re
from typing import Final

from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.source import Output, Source

_HEADING: Final = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*)")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")


def load(source: Source, out: Output) -> None:
    """Take the text as it is. A line in a fenced block is no heading."""
    fence = ""
    for line in decoded(source.read(), out).splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" \t\n`~"):
            fence = ""
        elif not fence and (heading := _HEADING.match(line)):
            out.section("heading", heading[2].rstrip().rstrip("#"), len(heading[1]))
        out.write(line)
