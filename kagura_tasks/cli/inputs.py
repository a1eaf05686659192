"""Files that commands read."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from kagura_tasks.errors import InvalidRequest

#: Standard input, as a file's name.
STDIN: Final = "-"


@contextmanager
def opened(source: str) -> Generator[BinaryIO]:
    """The file, or standard input for a dash. Raises InvalidRequest where it cannot be read."""
    if source == STDIN:
        yield sys.stdin.buffer
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115 (errors of whoever reads it are none of opening it)
    except OSError as error:
        raise InvalidRequest(f"cannot read {source}: {error.strerror}") from None
    with file:
        yield file


def checked(typed: str) -> str:
    """What was typed. Raises InvalidRequest where it holds bytes that are no text."""
    try:
        _ = typed.encode()
    except UnicodeEncodeError:
        shown = typed.encode("utf-8", "backslashreplace").decode()
        raise InvalidRequest(f"{shown} is not UTF-8") from None
    return typed


def text_of(typed: str) -> str:
    """The text itself, or what is in the file behind an @. Raises InvalidRequest."""
    if not typed.startswith("@"):
        return checked(typed)
    with opened(typed[1:]) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{typed[1:]} is not UTF-8") from None
