"""EPUB: a section for each chapter, in reading order."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from kagura_tasks.errors import FileDamaged, FileEncrypted
from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.decoding import decoded
from kagura_tasks.files.loaders.html import write_html
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.xml_tree import local_name, parse_xml


def load(source: Source, out: Output) -> None:
    """Write the chapters."""
    archive = Archive(source)
    if "META-INF/rights.xml" in archive.names():
        raise FileEncrypted(source.path)
    package = _package(source, archive)
    folder = posixpath.dirname(package)
    book = parse_xml(archive.read(package))
    places = {one.get("id", ""): unquote(one.get("href", "")) for one in _all(book, "item")}
    for reference in _all(book, "itemref"):
        chapter = posixpath.normpath(posixpath.join(folder, places.get(reference.get("idref", ""), "")))
        if chapter in archive.names():
            out.page("chapter", posixpath.basename(chapter))
            write_html(decoded(archive.read(chapter), out), out)
        else:
            out.warn("a chapter is missing")


def _package(source: Source, archive: Archive) -> str:
    for file in _all(parse_xml(archive.read("META-INF/container.xml")), "rootfile"):
        return file.get("full-path", "")
    raise FileDamaged(source.path, "it names no package")


def _all(parent: Element, name: str) -> list[Element]:
    return [element for element in parent.iter() if local_name(element) == name]
