"""How a parser's process is spoken with: a length, then so many bytes of JSON; with a question, an open file comes."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Final, cast

_LENGTH: Final = struct.Struct(">I")
_PIECE_BYTES: Final = 1 << 16

#: A question is a path, a type and some numbers.
MAX_QUESTION_BYTES: Final = 1 << 16


class Garbled(Exception):
    """What arrived is no frame, or a longer one than was expected."""


class HungUp(Exception):
    """The other side is gone."""


def send_question(to: socket.socket, question: dict[str, object], file: int) -> None:
    """Send a question, and a descriptor of the file that it is about. Raises HungUp."""
    frame = _frame(json.dumps(question).encode())
    try:
        sent = socket.send_fds(to, [frame], [file])
        to.sendall(frame[sent:])
    except OSError:
        raise HungUp from None


def receive_question(of: socket.socket) -> tuple[dict[str, object], int]:
    """The next question, and the descriptor. Raises HungUp at the end."""
    head, files, _, _ = socket.recv_fds(of, _LENGTH.size, 1)
    if len(head) < _LENGTH.size or not files:
        raise HungUp
    body = _exactly(of, _LENGTH.unpack(head)[0], None)
    return cast("dict[str, object]", json.loads(body)), files[0]


def send_answer(to: socket.socket, body: bytes) -> None:
    """Send an answer, which is JSON already."""
    to.sendall(_frame(body))


def receive_answer(of: socket.socket, longest_bytes: int, deadline: float) -> dict[str, object]:
    """The answer.

    Args:
        of: The other side.
        longest_bytes: What is longer than this is not read.
        deadline: When to give up, on the monotonic clock.

    Raises:
        TimeoutError: It did not come in time.
        HungUp: The other side died.
        Garbled: It is no answer.
    """
    (length,) = _LENGTH.unpack(_exactly(of, _LENGTH.size, deadline))
    if length > longest_bytes:
        raise Garbled(f"it announced an answer of {length:,} bytes")
    try:
        answer = cast(object, json.loads(_exactly(of, length, deadline)))
    except (ValueError, RecursionError):
        raise Garbled("its answer is not JSON") from None
    if not isinstance(answer, dict):
        raise Garbled("its answer is no JSON object")
    return cast("dict[str, object]", answer)


def _frame(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def _exactly(of: socket.socket, length: int, deadline: float | None) -> bytearray:
    found = bytearray()
    while len(found) < length:
        if deadline is not None:
            # Not above an hour: a socket's timeout has an upper end.
            of.settimeout(min(max(deadline - time.monotonic(), 0.001), 3600.0))
        try:
            piece = of.recv(min(_PIECE_BYTES, length - len(found)))
        except TimeoutError:
            if deadline is None or time.monotonic() >= deadline:
                raise
            continue
        except OSError:
            raise HungUp from None
        if not piece:
            raise HungUp
        found += piece
    return found
