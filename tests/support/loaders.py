"""Loaders without a process around them: for files of our own, which nobody has to fear."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from kagura_tasks.files.documents import Document
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.table import loader_for
from kagura_tasks.files.media_types import detect

LIMITS = FileLimits()


def source_of(name: str, content: bytes, limits: FileLimits = LIMITS) -> Source:
    return Source(name, detect(name, content[:8192]).media_type, len(content), io.BytesIO(content), limits)


def loaded(name: str, content: bytes | str, limits: FileLimits = LIMITS) -> Document:
    """The document, as a parser would make it."""
    data = content.encode() if isinstance(content, str) else content
    source = source_of(name, data, limits)
    out = Output(source)
    loader_for(name, source.media_type).load(source, out)
    about: dict[str, Any] = {"path": name, "media_type": source.media_type, "size_bytes": len(data)}
    return Document.model_validate({**out.document(), **about, "sha256": "0" * 64, "loader": "test/1"})


def titles(document: Document) -> list[tuple[str, str, str]]:
    """Each section's kind and title, and how its text begins."""
    return [(one.kind, one.title, document.text[one.start : one.end].split("\n")[0]) for one in document.sections]


def size_of(part: Any) -> tuple[int, int]:
    """A picture's size in pixels."""
    kind, _, data = part["image_url"]["url"].partition(";base64,")
    assert kind.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return picture.size


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
