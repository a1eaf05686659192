"""Files of this process, loaded by parsers of its own."""

from __future__ import annotations

from kagura_tasks.files.asking import FileWork, Looked, look
from kagura_tasks.files.documents import FileRef
from kagura_tasks.files.loading import FileLoader, limits_of
from kagura_tasks.files.parse_cache import LocalParseCache
from kagura_tasks.files.pool import ParserPool
from kagura_tasks.settings import Settings


class InlineFiles:
    """Loads files in parsers that end when nobody needs one any more. What was parsed is remembered in memory."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings. Where they allow no folders, any file may be read: it is the caller's own process."""
        self._pool = ParserPool(settings.file_parsers, limits_of(settings))
        allowed = settings.allowed_file_roots or None
        self._loader = FileLoader(self._pool, LocalParseCache.in_memory(), allowed)
        self._looking = 0

    async def look(self, ref: FileRef, work: FileWork) -> Looked:
        """What becomes of the file, and what is asked of it."""
        self._looking += 1
        try:
            return await look(self._loader, ref, work)
        finally:
            self._looking -= 1
            if not self._looking:
                await self._pool.aclose()
