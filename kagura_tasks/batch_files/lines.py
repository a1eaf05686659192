"""The lines of a JSONL file, one at a time: a file of any length takes the memory of its longest line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO, NoReturn, cast

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.schemas import Json


def numbered_lines(file: BinaryIO, longest_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Each line that is not blank, with its number from 1; None in place of a line that is too long."""
    number = 0
    while line := file.readline(longest_bytes + 1):
        number += 1
        if len(line) > longest_bytes and not line.endswith(b"\n"):
            _skip_line(file, longest_bytes)
            yield number, None
            continue
        text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
        if text:
            yield number, text


def finished_lines(file: BinaryIO, wrong: str) -> Iterator[tuple[bytes, Json]]:
    """The lines that a program wrote, and the object in each, up to one that it never finished.

    `wrong`: what is said of the file where a finished one holds something else. Raises InvalidRequest.
    """
    for number, line in enumerate(file, start=1):
        try:
            row = object_in(line)
        except InvalidRequest as error:
            if not line.endswith(b"\n"):
                return
            raise InvalidRequest(f"{wrong}: line {number} {error}") from None
        yield line, row


def object_in(line: bytes | None) -> Json:
    """The JSON object in a line. Raises InvalidRequest, with no text of the line."""
    if line is None:
        raise InvalidRequest("is too long")
    try:
        value = cast(object, json.loads(line.decode(), parse_constant=_refuse))
    except UnicodeDecodeError:
        raise InvalidRequest("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"is not JSON (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise InvalidRequest("is not JSON that can be read") from None
    if not isinstance(value, dict):
        raise InvalidRequest("is not a JSON object")
    return cast(Json, value)


def check_characters(fields: Json) -> None:
    """Raises InvalidRequest for half of a surrogate pair, which JSON can hold and no text."""
    try:
        _ = json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("holds half of a character (a surrogate without the other)") from None


def line_of(fields: Json) -> bytes:
    """The line that holds this object."""
    try:
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        return json.dumps(fields).encode() + b"\n"


def _skip_line(file: BinaryIO, piece_bytes: int) -> None:
    while (piece := file.readline(piece_bytes)) and not piece.endswith(b"\n"):
        pass


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity are Python's, and no provider takes them."""
    raise ValueError(constant)
