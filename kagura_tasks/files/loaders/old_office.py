"""The container of old Office files, which nothing here reads. New ones with a password are in such a one, too."""

from __future__ import annotations

from typing import Final

from kagura_tasks.errors import FileEncrypted, UnsupportedFile
from kagura_tasks.files.loaders.source import Output, Source

_ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")


def load(source: Source, out: Output) -> None:  # noqa: ARG001 (there is nothing to write)
    """Raise FileEncrypted or UnsupportedFile."""
    if _ENCRYPTED in source.read():
        raise FileEncrypted(source.path)
    raise UnsupportedFile(source.path, source.media_type)
