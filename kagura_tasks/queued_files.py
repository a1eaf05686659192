"""Files for workers that do not see the disk on which they are: sent to Redis, each with the item that names it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kagura_tasks.errors import FileError, FileTooLarge, InvalidRequest
from kagura_tasks.files.documents import FileRef, row_of_error
from kagura_tasks.files.limits import setting_of
from kagura_tasks.files.loading import opened_ref
from kagura_tasks.files.uploads import Uploads
from kagura_tasks.mapping import LeftOut, Planned, PlannedItem
from kagura_tasks.settings import Settings
from kagura_tasks.sources import WAITING


def uploaded(settings: Settings, tenant: str, items: Iterable[Planned]) -> Iterator[Planned]:
    """The same items, once the content of each file is in Redis; a file that cannot be read is left out.

    Raises:
        InvalidRequest: They have more bytes together than `KAGURA_TASKS_UPLOAD_MAX_BYTES`.
        RedisError: Redis is away, or full.
    """
    uploads = Uploads(settings, tenant)
    size_bytes = 0
    for item in items:
        if not isinstance(item, PlannedItem) or not isinstance(ref := item.request, FileRef) or ref.upload:
            yield item
            continue
        size_bytes += ref.size_bytes
        if size_bytes > settings.upload_max_bytes:
            raise _too_much(settings.upload_max_bytes)
        yield _uploaded(settings, uploads, ref)


def _uploaded(settings: Settings, uploads: Uploads, ref: FileRef) -> Planned:
    try:
        if ref.size_bytes > settings.file_max_bytes:
            raise FileTooLarge(ref.path, ref.size_bytes, settings.file_max_bytes, "bytes", setting_of("max_bytes"))
        with opened_ref(ref, None) as file:
            name = WAITING.run(uploads.put(file, ref.path))
    except FileError as error:
        return LeftOut(row_of_error(error, ref))
    return PlannedItem(ref.model_copy(update={"upload": name}), ref.path)


def _too_much(most_bytes: int) -> InvalidRequest:
    mend = "raise KAGURA_TASKS_UPLOAD_MAX_BYTES, or name their folder in KAGURA_TASKS_FILE_ROOTS where workers see it"
    return InvalidRequest(f"the files have more than {most_bytes:,} bytes together, which is too much to send: {mend}")
