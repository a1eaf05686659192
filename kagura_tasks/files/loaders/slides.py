"""PPTX: a section for each slide, in the order in which they are shown, with its tables and notes."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.office_parts import main_part, related_parts, warn_of_left_out
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.xml_tree import attribute, local_name, parse_xml


def load(source: Source, out: Output) -> None:
    """Write the slides."""
    archive = Archive(source)
    part = main_part(archive, "ppt/presentation.xml")
    related = related_parts(archive, part)
    for slide in _all(parse_xml(archive.read(part)), "sldId"):
        # Two attributes are called `id`; the one with the namespace names the part.
        name = next((value for key, value in slide.attrib.items() if key.endswith("}id")), "")
        if name in related:
            _slide(archive, related[name].target, out)


def _slide(archive: Archive, part: str, out: Output) -> None:
    slide = parse_xml(archive.read(part))
    title = next((_text(shape) for shape in _all(slide, "sp") if _is_title(shape)), "").strip()
    number = out.page("slide", title)
    out.paragraph(f"# Slide {number}: {title}" if title else f"# Slide {number}")
    for shape in _shapes(slide):
        if local_name(shape) == "tbl":
            out.table([[_text(cell) for cell in _all(row, "tc")] for row in _all(shape, "tr")])
        elif not _is_title(shape):
            out.paragraph(_text(shape))
    related = related_parts(archive, part)
    for one in related.values():
        if one.kind == "notesSlide" and one.target in archive.names():
            _notes(parse_xml(archive.read(one.target)), out)
    warn_of_left_out(related, out)


def _notes(page: Element, out: Output) -> None:
    for shape in _all(page, "sp"):
        if _placeholder(shape) == "body" and (text := _text(shape).strip()):
            out.paragraph(f"Notes: {text}")


def _shapes(slide: Element) -> Iterator[Element]:
    """Shapes with text, and tables, in the order in which they stand."""
    return (element for element in slide.iter() if local_name(element) in ("sp", "tbl"))


def _placeholder(shape: Element) -> str:
    return next((attribute(one, "type") for one in _all(shape, "ph")), "")


def _is_title(shape: Element) -> bool:
    return _placeholder(shape) in ("title", "ctrTitle")


def _all(parent: Element, name: str) -> Iterator[Element]:
    return (element for element in parent.iter() if local_name(element) == name)


def _text(shape: Element) -> str:
    lines = ["".join(one.text or "" for one in _all(paragraph, "t")) for paragraph in _all(shape, "p")]
    return "\n".join(line for line in lines if line.strip())
