"""XML as a tree. No entity is expanded, no other document is fetched, and nesting has an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

#: Deeper than any document; above it, walking the tree would be the hazard.
_MAX_DEPTH: Final = 200


class ForbiddenXml(ValueError):
    """It declares entities, or is nested too deeply."""


def parse_xml(data: bytes) -> Element:
    """The root, with names as `{namespace}name`. Raises ForbiddenXml or ExpatError."""
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    tree = _Tree()
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.builder.data
    forbid: Callable[..., Any] = _forbid
    parser.EntityDeclHandler = forbid
    parser.Parse(data, True)
    return tree.builder.close()


class _Tree:
    def __init__(self) -> None:
        self.builder = TreeBuilder()
        self._depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ForbiddenXml(f"more than {_MAX_DEPTH} levels")
        self.builder.start(_full(name), {_full(key): value for key, value in attributes.items()})

    def end(self, name: str) -> None:
        self._depth -= 1
        self.builder.end(_full(name))


def local_name(element: Element) -> str:
    """An element's name without its namespace: the transitional and the strict form of Office differ in that alone."""
    return element.tag.rpartition("}")[2]


def attribute(element: Element, name: str) -> str:
    """An attribute by its name without its namespace; "" where it is absent."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _full(name: str) -> str:
    return "{" + name if "}" in name else name


def _forbid(*_: object) -> NoReturn:
    raise ForbiddenXml("an entity is declared")
