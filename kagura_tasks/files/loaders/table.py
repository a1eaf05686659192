"""Which loader reads which type. A line here is all that a new kind of file needs, beside its module."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from kagura_tasks.errors import UnsupportedFile
from kagura_tasks.files import media_types as types
from kagura_tasks.files.loaders.source import Output, Source


@dataclass(frozen=True)
class Loader:
    """A module with `load(source, out)`.

    Attributes:
        name: The module's name.
        version: Raise it when its documents change: what was remembered of the old version is then parsed anew.
        needs: A module that it cannot do without, and the extra of this package that brings it.
        uses: Modules that make its documents better where they are installed.
    """

    name: str
    version: int = 1
    needs: tuple[str, str] | None = None
    uses: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What its documents depend on beside the file."""
        return "+".join([f"{self.name}/{self.version}", *(one for one in self.uses if is_installed(one))])

    def require(self, path: str, media_type: str) -> None:
        """Raise UnsupportedFile, which names the extra, where what it needs is not installed."""
        if self.needs and not is_installed(self.needs[0]):
            raise UnsupportedFile(path, media_type, self.needs[1])

    def load(self, source: Source, out: Output) -> None:
        """Read the file. Raises FileError, or whatever the library raises that reads it."""
        module: Any = import_module(f"kagura_tasks.files.loaders.{self.name}")
        module.load(source, out)


def is_installed(module: str) -> bool:
    """It can be imported; it is not imported yet."""
    return find_spec(module) is not None


def loader_for(path: str, media_type: str) -> Loader:
    """Who reads this type. Raises UnsupportedFile where nobody does, or something is missing."""
    loader = LOADERS.get(media_type)
    if loader is None:
        raise UnsupportedFile(path, media_type)
    loader.require(path, media_type)
    return loader


_TEXT: Final = Loader("text")
_CODE: Final = Loader("code")
_SHEETS: Final = Loader("sheets", needs=("python_calamine", "office"))
_IMAGE: Final = Loader("image", uses=("PIL",))
_CONVERTED: Final = Loader("image", needs=("PIL", "images"))
_RECORDING: Final = Loader("recording")

LOADERS: Final[dict[str, Loader]] = {
    # Whatever is text and has no line of its own is source code of some kind.
    **{kind: _CODE for kind in types.BY_SUFFIX.values() if kind.startswith("text/")},
    types.PLAIN: _TEXT,
    "text/xml": _TEXT,
    "text/markdown": Loader("markdown"),
    "text/html": Loader("html"),
    "text/csv": Loader("table_text"),
    "text/tab-separated-values": Loader("table_text"),
    "application/json": Loader("json_text"),
    "application/jsonl": Loader("json_text"),
    "application/pdf": Loader("pdf", uses=("pypdfium2", "PIL")),
    types.DOCX: Loader("word"),
    types.PPTX: Loader("slides"),
    types.EPUB: Loader("epub"),
    types.XLSX: _SHEETS,
    types.XLS: _SHEETS,
    types.ODS: _SHEETS,
    types.OLE: Loader("old_office"),
    "image/png": _IMAGE,
    "image/jpeg": _IMAGE,
    "image/gif": _IMAGE,
    "image/webp": _IMAGE,
    "image/bmp": _CONVERTED,
    "image/tiff": _CONVERTED,
    **{kind: _RECORDING for kind in types.BY_SUFFIX.values() if kind.startswith(("audio/", "video/"))},
}
