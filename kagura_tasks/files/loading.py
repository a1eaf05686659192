"""From a folder, or a reference to a file, to documents and a row for each file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from kagura_tasks.errors import FileError, FileNotAllowed, FileTooLarge, FileUnreadable, ParserDied
from kagura_tasks.files.documents import Document, FileRef, FileRow, LoadedDirectory, row_of_error
from kagura_tasks.files.limits import FileLimits, setting_of
from kagura_tasks.files.loaders.table import Loader, loader_for
from kagura_tasks.files.media_types import HEAD_BYTES, Detected, detect
from kagura_tasks.files.opening import explain, opened_file, opened_root
from kagura_tasks.files.parse_cache import ParseCache, parse_key, recall, remember
from kagura_tasks.files.pool import ParserPool
from kagura_tasks.files.scanner import Found, scan
from kagura_tasks.files.uploads import Uploads, sha256_of
from kagura_tasks.parallel import parallel_map
from kagura_tasks.schemas import problems_of
from kagura_tasks.settings import Settings, load_settings

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What became of a file, and its document if it has one."""

    row: FileRow
    document: Document | None


class _Look(NamedTuple):
    """What is known of an open file before it is parsed. `state` changes when somebody writes to it."""

    state: tuple[int, int, int]
    size_bytes: int
    detected: Detected
    loader: Loader
    sha256: str


@dataclass(frozen=True)
class FileLoader:
    """Loads files by their references, one or many at a time.

    Attributes:
        pool: Where they are parsed, and within which limits.
        cache: Where parsed documents are kept; None: nowhere.
        allowed: The folders of which one has to contain a file's root; None: any root may be read.
        uploads: Where files are that are not on this machine's disk; None: all are.
    """

    pool: ParserPool
    cache: ParseCache | None = None
    allowed: Sequence[str] | None = None
    uploads: Uploads | None = None

    async def load(self, ref: FileRef) -> Loaded:
        """The file's document and row. What is wrong with the file is in the row; nothing of it is raised."""
        started = time.monotonic()
        try:
            document, is_cached = await self._document(ref)
        except FileError as error:
            return Loaded(row_of_error(error, ref, seconds=time.monotonic() - started), None)
        row = FileRow(
            path=ref.path,
            status="cached" if is_cached else "ok",
            media_type=document.media_type,
            size_bytes=document.size_bytes,
            seconds=round(time.monotonic() - started, 4),
        )
        return Loaded(row, document)

    async def document(self, ref: FileRef) -> Document:
        """The file's document. Raises FileError."""
        return (await self._document(ref))[0]

    async def _document(self, ref: FileRef) -> tuple[Document, bool]:
        """The document, and whether it was parsed before."""
        async with self.pool.places, self._opened(ref) as file:
            look = await self.pool.in_thread(_look_at, file, ref.path, self.pool.limits)
            key = parse_key(look.sha256, look.detected.media_type, look.loader.identity, self.pool.limits)
            if self.cache is not None and (known := await recall(self.cache, key)) is not None:
                return _as_found(known, ref, look), True
            parsed = await self.pool.parse(file, ref.path, look.detected.media_type)
            if _state(file) != look.state:
                raise FileUnreadable(ref.path, "was changed while it was read")
            document = _document_of(parsed, ref, look)
            if self.cache is not None:
                await remember(self.cache, key, document)
            return _as_found(document, ref, look), False

    @asynccontextmanager
    async def _opened(self, ref: FileRef) -> AsyncGenerator[int]:
        async with AsyncExitStack() as opened:
            if ref.upload and self.uploads is not None:
                yield await opened.enter_async_context(self.uploads.opened(ref))
            else:
                opening = opened_ref(ref, self.allowed)
                file = await self.pool.in_thread(opening.__enter__)
                opened.callback(opening.__exit__, None, None, None)
                yield file


async def load_directory(
    path: str | Path,
    max_concurrent: int = 5,
    *,
    pattern: str | None = None,
    limits: FileLimits | None = None,
    cache: ParseCache | None = None,
    on_error: Literal["collect", "raise"] = "collect",
    settings: Settings | None = None,
) -> LoadedDirectory:
    """Load all files of a folder, and of the folders in it, `max_concurrent` at a time.

    Each is parsed in a process that is ended at its limits; a file that hangs or crashes its parser fails alone. What
    `.gitignore` and `.kaguraignore` name is left out. Links are not followed.

    Args:
        path: The folder. This process may read any.
        max_concurrent: How many files are parsed at the same time.
        pattern: Only files that this matches, in the form of a line of `.gitignore`: "*.md", "docs/**/*.pdf".
        limits: What each file may ask of this machine; default: those of the settings.
        cache: Where parsed documents are kept: a file that did not change is then not parsed again.
        on_error: "collect": a file that fails is a row of the result. "raise": the first one ends all.
        settings: Where the limits come from; default: the environment.

    Returns:
        The documents, in the order of their paths: a list, whose `rows` say what became of each file, and whose
        `failed` and `skipped` are those rows without a document.

    Raises:
        FileUnreadable: The path is no folder, or it cannot be read.
        FileError: With `on_error="raise"`, what is wrong with the first file that failed.
        InvalidRequest: `max_concurrent` is below 1, or the pattern matches nothing at all.
    """
    limits = limits or limits_of(settings or load_settings())
    async with ParserPool(max(max_concurrent, 1), limits) as pool:
        loader = FileLoader(pool, cache)

        async def load(found: Found) -> Loaded:
            loaded = await loader.load(found) if isinstance(found, FileRef) else Loaded(found, None)
            if on_error == "raise" and loaded.row.status == "failed" and (error := loaded.row.exception):
                raise error
            return loaded

        found = await pool.in_thread(_scanned, path, pattern)
        loaded = await parallel_map(load, found, max_concurrent)
    return _told(loaded, str(path))


def limits_of(settings: Settings) -> FileLimits:
    """The limits that the settings name."""
    return FileLimits(**{limit.name: getattr(settings, f"file_{limit.name}") for limit in fields(FileLimits)})


def _scanned(path: str | Path, pattern: str | None) -> list[Found]:
    return list(scan(path, pattern=pattern))


def _told(loaded: Sequence[Loaded], path: str) -> LoadedDirectory:
    directory = LoadedDirectory(
        (one.document for one in loaded if one.document is not None), (one.row for one in loaded)
    )
    if directory.failed:
        log.warning(
            "%d of the %d files in %s could not be loaded: see `failed` of the result",
            *(len(directory.failed), len(directory.rows), path),
        )
    return directory


@contextmanager
def opened_ref(ref: FileRef, allowed: Sequence[str] | None) -> Generator[int]:
    """A descriptor of the file, on this machine's disk. See opening for what it raises; errors name the file alone."""
    try:
        with opened_root(ref.root, allowed) as root, opened_file(root, ref.path) as file:
            yield file
    except FileNotAllowed as error:
        raise FileNotAllowed(ref.path, error.why) from None
    except FileUnreadable as error:
        raise FileUnreadable(ref.path, error.why) from None


def _state(file: int) -> tuple[int, int, int]:
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns, found.st_ino


def _look_at(file: int, path: str, limits: FileLimits) -> _Look:
    """What it is, who reads it, and the hash of what it contains. Raises FileTooLarge before more of it is read."""
    state = _state(file)
    try:
        detected = detect(path, os.pread(file, HEAD_BYTES, 0))
        loader = loader_for(path, detected.media_type)
        if state[0] > limits.max_bytes:
            raise FileTooLarge(path, state[0], limits.max_bytes, "bytes", setting_of("max_bytes"))
        return _Look(state, state[0], detected, loader, sha256_of(file, limits.max_bytes))
    except OSError as error:
        raise explain(error, path) from None


def _document_of(parsed: dict[str, object], ref: FileRef, look: _Look) -> Document:
    try:
        return Document.model_validate(
            {
                **parsed,
                "path": ref.path,
                "media_type": look.detected.media_type,
                "size_bytes": look.size_bytes,
                "sha256": look.sha256,
                "loader": look.loader.identity,
            }
        )
    except ValidationError as error:
        raise ParserDied(ref.path, f"its answer is no document: {problems_of(error)[:200]}") from None


def _as_found(document: Document, ref: FileRef, look: _Look) -> Document:
    """The document under this file's name. Another file may have the same content."""
    warnings = tuple(filter(None, (look.detected.warning, *document.warnings)))
    return document.model_copy(update={"path": ref.path, "warnings": warnings})
