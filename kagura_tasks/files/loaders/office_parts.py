"""How the parts of an Office document find each other."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kagura_tasks.files.loaders.archive import Archive
from kagura_tasks.files.loaders.source import Output
from kagura_tasks.files.loaders.xml_tree import attribute, parse_xml

#: Parts that say something, of which we make nothing.
_LEFT_OUT: Final = {"image": "pictures", "chart": "charts", "diagramData": "diagrams", "oleObject": "embedded objects"}


@dataclass(frozen=True)
class Related:
    """A part that another one names: its kind (the last word of its type), and where it is."""

    kind: str
    target: str


def related_parts(archive: Archive, part: str) -> dict[str, Related]:
    """The parts that `part` names, by their ids. What is outside of the document is not among them."""
    folder, name = posixpath.split(part)
    listing = posixpath.join(folder, "_rels", f"{name}.rels")
    if listing not in archive.names():
        return {}
    return {
        attribute(one, "Id"): Related(attribute(one, "Type").rpartition("/")[2], _target(folder, one.get("Target", "")))
        for one in parse_xml(archive.read(listing))
        if one.get("TargetMode") != "External"
    }


def warn_of_left_out(related: Mapping[str, Related], out: Output) -> None:
    """Say what of a part's relations is not in the document."""
    for part in related.values():
        if part.kind in _LEFT_OUT:
            out.warn(f"its {_LEFT_OUT[part.kind]} are left out")


def main_part(archive: Archive, default: str) -> str:
    """The part that all others hang on."""
    found = related_parts(archive, "")
    return next((one.target for one in found.values() if one.kind == "officeDocument"), default)


def _target(folder: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(folder, target) if not target.startswith("/") else target.lstrip("/"))
