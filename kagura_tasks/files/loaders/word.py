"""DOCX: headings, paragraphs, lists, tables, notes. What was deleted under track changes is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element

from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.office_parts import main_part, related_parts, warn_of_left_out
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.xml_tree import attribute, local_name, parse_xml

_HEADING: Final = re.compile(r"(?:heading|überschrift|titre|見出し)\s*(\d)", re.IGNORECASE)
#: Read on their own, or a second copy of what is there.
_NOT_HERE: Final = frozenset({"Fallback", "del", "moveFrom", "pPr", "rPr", "instrText"})
_SIGNS: Final = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def load(source: Source, out: Output) -> None:
    """Write the document's body, then its notes."""
    archive = Archive(source)
    part = main_part(archive, "word/document.xml")
    related = related_parts(archive, part)
    styles = _heading_styles(archive, [one.target for one in related.values() if one.kind == "styles"])
    for body in parse_xml(archive.read(part)):
        _blocks(body, styles, out)
    for note in related.values():
        if note.kind in ("footnotes", "endnotes", "comments") and note.target in archive.names():
            _notes(note.kind, parse_xml(archive.read(note.target)), styles, out)
    warn_of_left_out(related, out)


def _heading_styles(archive: Archive, parts: list[str]) -> dict[str, int]:
    """The level of each style that is a heading: its id may be in any language, its name or outline level is not."""
    found: dict[str, int] = {}
    for part in parts:
        if part in archive.names():
            for style in parse_xml(archive.read(part)):
                if level := _heading_level(style):
                    found[attribute(style, "styleId")] = level
    return found


def _heading_level(style: Element) -> int:
    for element in style.iter():
        value = attribute(element, "val")
        if local_name(element) == "outlineLvl" and value.isdecimal() and int(value) < 9:
            return int(value) + 1
        if local_name(element) == "name":
            if named := _HEADING.match(value):
                return int(named[1])
            if value.lower() == "title":
                return 1
    return 0


def _blocks(parent: Element, styles: dict[str, int], out: Output) -> None:
    for block in parent:
        name = local_name(block)
        if name == "p":
            _paragraph(block, styles, out)
        elif name == "tbl":
            out.table([[_text(cell) for cell in _named(row, "tc")] for row in _named(block, "tr")])
        elif name in ("sdt", "sdtContent", "ins", "moveTo", "customXml"):
            _blocks(block, styles, out)


def _paragraph(paragraph: Element, styles: dict[str, int], out: Output) -> None:
    text = _text(paragraph)
    style = is_item = ""
    for element in (one for properties in _named(paragraph, "pPr") for one in properties):
        if local_name(element) == "pStyle":
            style = attribute(element, "val")
        is_item = is_item or ("- " if local_name(element) == "numPr" else "")
    level = styles.get(style) or (int(found[1]) if (found := _HEADING.match(style)) else 0)
    if level:
        out.heading(text, level)
    else:
        out.paragraph(is_item + text if text.strip() else "")


def _notes(kind: str, notes: Element, styles: dict[str, int], out: Output) -> None:
    # Those with a type are the lines that separate notes from the text.
    found = [note for note in notes if not attribute(note, "type") and _text(note).strip()]
    if found:
        out.heading(kind.capitalize(), 1)
        for note in found:
            _blocks(note, styles, out)


def _named(parent: Element, name: str) -> Iterator[Element]:
    return (child for child in parent if local_name(child) == name)


def _text(element: Element) -> str:
    return "".join(_pieces(element))


def _pieces(element: Element) -> Iterator[str]:
    for child in element:
        name = local_name(child)
        if name == "t":
            yield child.text or ""
        elif name in _SIGNS:
            yield _SIGNS[name]
        elif name not in _NOT_HERE:
            yield from _pieces(child)
            if name == "p":
                yield "\n"
