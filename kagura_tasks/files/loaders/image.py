"""Pictures: as they are, or scaled down and in a form that models take, where Pillow is installed (extra `images`)."""

from __future__ import annotations

import io
from typing import Any, Final

from kagura_tasks.errors import FileTooLarge
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.table import is_installed

#: What models take as it is. Of others a PNG is made.
_TAKEN: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP"}

#: Four bytes each when it is unpacked: more do not fit into the memory of a parser.
_MAX_PIXELS: Final = 60_000_000


def load(source: Source, out: Output) -> None:
    """Take the picture."""
    if not is_installed("PIL"):
        out.warn("it was not scaled down or looked into: pip install 'kagura-tasks[images]'")
        out.media("image", source.media_type, source.read())
        return
    from PIL import Image

    with Image.open(source.file) as opened:
        picture: Any = opened
        if picture.width * picture.height > _MAX_PIXELS:
            raise FileTooLarge(source.path, picture.width * picture.height, _MAX_PIXELS, "pixels")
        picture.load()
        _write(source, picture, out)


def _write(source: Source, picture: Any, out: Output) -> None:
    most = source.limits.max_image_px
    if getattr(picture, "n_frames", 1) > 1:
        out.warn("of its pictures only the first is taken")
    elif max(picture.size) <= most and source.media_type in _TAKEN:
        source.file.seek(0)
        out.media("image", source.media_type, source.read())
        return
    if max(picture.size) > most:
        out.warn(f"it was scaled down from {picture.width} x {picture.height} pixels")
        picture.thumbnail((most, most))
    is_photo = source.media_type == "image/jpeg"
    scaled = io.BytesIO()
    picture.convert("RGB" if is_photo else "RGBA").save(scaled, "JPEG" if is_photo else "PNG")
    out.media("image", "image/jpeg" if is_photo else "image/png", scaled.getvalue())
