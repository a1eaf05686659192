"""Sound and film, as they are: models that take them do so in these forms."""

from __future__ import annotations

from kagura_tasks.files.loaders.source import Output, Source


def load(source: Source, out: Output) -> None:
    """Take the recording. Raises FileTooLarge before it is read."""
    if source.size_bytes > source.limits.max_media_bytes:
        raise source.too_large(source.size_bytes, "max_media_bytes", "bytes of media")
    out.media("audio" if source.media_type.startswith("audio/") else "video", source.media_type, source.read())
