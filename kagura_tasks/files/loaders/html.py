"""HTML, as Markdown: headings, links, lists, tables and blocks of code; scripts and styles are dropped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.source import Output, Source

_DECLARED: Final = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([-\w]{1,30})""", re.IGNORECASE)
_DROPPED: Final = frozenset({"script", "style", "template", "noscript", "svg", "math", "title"})
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_BLOCKS: Final = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset"}
    | {"figcaption", "figure", "footer", "form", "head", "header", "hr", "html", "legend", "li", "main", "nav", "ol"}
    | {"p", "pre", "section", "summary", "table", "tr", "ul", *_HEADINGS}
)


def load(source: Source, out: Output) -> None:
    """Write the page. Its encoding is what it declares, where it is no UTF-8."""
    data = source.read()
    declared = _DECLARED.search(data[:4096])
    write_html(decoded(data, out, declared[1].decode() if declared else ""), out)


def write_html(text: str, out: Output) -> None:
    """Write a page that is text already."""
    page = _Page(out)
    page.feed(text)
    page.close()
    page.finish()


class _Page(HTMLParser):
    """Collects the text of one block at a time. Nesting costs no recursion; what is not closed ends with the page."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out
        self._block: list[str] = []
        self._dropped = ""
        self._drops = 0
        self._heading = 0
        self._lists: list[str] = []
        self._bullet = ""
        self._links: list[str] = []
        self._rows: list[list[str]] | None = None
        self._in_code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        if self._dropped:
            self._drops += tag == self._dropped
            return
        if tag in _DROPPED:
            self._dropped, self._drops = tag, 1
        elif tag in ("td", "th"):
            self._cell()
        elif tag == "a":
            self._links.append(dict(attrs).get("href") or "")
            self._say("[")
        elif tag == "br":
            self._say("\n")
        elif tag == "img" and (alt := dict(attrs).get("alt")):
            self._say(f"![{alt}]")
        elif tag in _BLOCKS:
            self._end_block()
            self._say(" ")  # in a cell, a block is no line of its own
            self._start_block(tag)

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        if self._dropped:
            self._drops -= tag == self._dropped
            if self._drops == 0:
                self._dropped = ""
        elif tag == "a" and self._links:
            self._link(self._links.pop())
        elif tag in _BLOCKS:
            self._end_block()
            self._finish_block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser. Of a dropped kind, there is nothing to drop."""
        if tag not in _DROPPED:
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self._dropped:
            return
        if self._in_code:
            self._out.write(data)
        else:
            self._say(re.sub(r"\s+", " ", data))

    def finish(self) -> None:
        """Write what is not closed."""
        self._end_block()
        self._table()

    def _say(self, text: str) -> None:
        """Add to the cell of a table, or else to the block."""
        if self._rows and self._rows[-1]:
            self._rows[-1][-1] += text
        else:
            self._block.append(text)

    def _start_block(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag in ("ul", "ol"):
            self._lists.append(tag)
        elif tag == "li":
            depth = max(len(self._lists) - 1, 0)
            self._bullet = "  " * min(depth, 10) + ("1. " if self._lists[-1:] == ["ol"] else "- ")
        elif tag == "table":
            self._table()
            self._rows = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag == "pre" and self._rows is None:
            self._in_code = True
            self._out.write("```\n")

    def _finish_block(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._lists = self._lists[:-1]
            if not self._lists and self._rows is None:
                self._out.write("\n")
        elif tag == "table":
            self._table()
        elif tag == "pre" and self._in_code:
            self._in_code = False
            self._out.write("\n```\n\n")

    def _cell(self) -> None:
        if self._rows is not None:
            if not self._rows:
                self._rows.append([])
            self._rows[-1].append("")

    def _link(self, address: str) -> None:
        has_address = address and not address.lower().startswith(("javascript:", "data:", "#"))
        self._say(f"]({address})" if has_address else "]")

    def _end_block(self) -> None:
        """Write the block's text, as what it is."""
        text = re.sub(r" *\n *", "\n", "".join(self._block)).strip()
        heading, bullet = self._heading, self._bullet
        self._block, self._heading, self._bullet = [], 0, ""
        if not text:
            return
        if heading:
            self._out.heading(text, heading)
        elif bullet:
            self._out.write(f"{bullet}{text}\n")
        else:
            self._out.paragraph(text)

    def _table(self) -> None:
        rows, self._rows = self._rows, None
        if rows := [row for row in rows or [] if row]:
            self._out.table(rows)
