"""What a file becomes, how it is referred to, and what is told of it. All of it travels as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field, JsonValue

from kagura_tasks.errors import FileError, KaguraTasksError, rebuild
from kagura_tasks.schemas import Json, Wire

#: What became of a file. "cached": its content was parsed before, and nothing was parsed now; nor asked, where a model
#: was to answer.
FileStatus = Literal["ok", "cached", "failed", "skipped"]

#: A natural part of a document.
SectionKind = Literal["heading", "page", "slide", "sheet", "chapter", "record"]


def _below_its_root(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\0" in path or ".." in parts or "." in path.split("/"):
        raise ValueError("a path below its root, without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_below_its_root), Field(max_length=4096)]


class FileRef(Wire):
    """A file by its name: it travels instead of the file's bytes.

    Attributes:
        root: The folder that was named, as an absolute path.
        path: Where the file is below it, with `/` between the names.
        size_bytes: Its size when it was found.
        media_type: What it was by its name and content when it was found.
        upload: The name of its content in Redis (its SHA-256) where that was sent there: the file itself is not opened.
    """

    root: str = Field(pattern=r"^/", max_length=4096)
    path: RelativePath
    size_bytes: int = Field(default=0, ge=0)
    media_type: str = ""
    upload: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class FileRow(Wire):
    """What became of one file or folder: a row of the manifest. Every one that was found has a row.

    Attributes:
        path: Where it is below the root.
        status: "ok", "cached" (nothing had to be done), "failed", or "skipped" (by a rule, or nothing reads its type).
        reason: Why it failed, or the rule that skipped it.
        media_type: What it is; "" where nobody looked.
        size_bytes: Its size; 0 where nobody looked.
        seconds: How long it took to load.
        error: The error's class and its args, where there is one; see `exception`.
    """

    path: str
    status: FileStatus
    reason: str = ""
    media_type: str = ""
    size_bytes: int = 0
    seconds: float = 0.0
    error: Json | None = None

    @property
    def exception(self) -> KaguraTasksError | None:
        """The error as it was raised, or None."""
        if self.error is None:
            return None
        return rebuild(str(self.error.get("type")), cast("list[object]", self.error.get("args") or []))


def row_of_error(error: FileError, ref: FileRef | None = None, *, seconds: float = 0.0) -> FileRow:
    """The row of a file that has no document."""
    return FileRow(
        path=error.path,
        status="skipped" if error.is_passed_over else "failed",
        reason=error.reason,
        media_type=ref.media_type if ref else "",
        size_bytes=ref.size_bytes if ref else 0,
        seconds=round(seconds, 4),
        error=_told(error),
    )


def _told(error: KaguraTasksError) -> Json:
    return {"type": type(error).__name__, "args": cast("list[JsonValue]", list(error.args))}


def failed_row(error: KaguraTasksError, row: FileRow) -> FileRow:
    """The row of a file that was looked at, and of which there will be no answer."""
    if isinstance(error, FileError):
        told = row_of_error(error)
        return row.model_copy(update={"status": told.status, "reason": told.reason, "error": told.error})
    return row.model_copy(update={"status": "failed", "reason": str(error), "error": _told(error)})


class Section(Wire):
    """A natural part of a document, from its first character on.

    Attributes:
        kind: What it is.
        title: The heading, the sheet's name; "" where it has none.
        level: How deep it is: that of a heading, from 1.
        start: Where it begins in the text, in characters.
        end: Where the next one begins, or the text ends.
    """

    kind: SectionKind
    title: str = ""
    level: int = Field(default=1, ge=1)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Document(Wire):
    """What a file says, in a form that models take.

    Attributes:
        path: Where the file is below the root that was named.
        media_type: What it is. Its content decides; where its name promised something else, a warning says so.
        size_bytes: Its size.
        sha256: Of its bytes, in hexadecimal.
        text: Its text; of tables and headings as Markdown.
        parts: Pictures, sound and film, as content parts of a message in LiteLLM's (OpenAI's) form.
        pages: Pages, slides, sheets or chapters; None where it has none.
        sections: Natural parts of the text, in order, one behind the other.
        loader: Who read it, and in which version.
        warnings: What may be missing from it or was guessed.
    """

    path: str
    media_type: str
    size_bytes: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    text: str = ""
    parts: tuple[Json, ...] = ()
    pages: int | None = Field(default=None, ge=0)
    sections: tuple[Section, ...] = ()
    loader: str
    warnings: tuple[str, ...] = ()


class LoadedDirectory(list[Document]):
    """The documents of a folder, in the order of their paths, and a row for each file: also for those that are none.

    Attributes:
        rows: What became of each file, in the order of the paths.
    """

    def __init__(self, documents: Iterable[Document] = (), rows: Iterable[FileRow] = ()) -> None:
        """Take both in order."""
        super().__init__(documents)
        self.rows = tuple(rows)

    @property
    def failed(self) -> tuple[FileRow, ...]:
        """The files that could not be loaded, with reasons."""
        return tuple(row for row in self.rows if row.status == "failed")

    @property
    def skipped(self) -> tuple[FileRow, ...]:
        """The files that were left out by a rule, or because nothing reads their type."""
        return tuple(row for row in self.rows if row.status == "skipped")
