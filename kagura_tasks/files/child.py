"""A program: parses the files that its parent hands it, one at a time, until its parent hangs up or dies.

It is a process of its own because parsers hang, crash and take all memory there is, and no thread can be ended. It gets
open files, never a path, and no variable of its parent's environment in which a key might be.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress

from kagura_tasks.errors import FileDamaged, FileError, FileTooLarge, ParserDied
from kagura_tasks.files.confine import bound_time, confine, held_memory_bytes, unbound_time
from kagura_tasks.files.frames import HungUp, receive_question, send_answer
from kagura_tasks.files.limits import FileLimits, setting_of
from kagura_tasks.files.loaders.source import Output, Source
from kagura_tasks.files.loaders.table import LOADERS


def main(parent: int, memory_bytes: int) -> None:
    """Answer the questions that come over standard input, which is a socket."""
    with socket.socket(fileno=os.dup(0)) as asker:
        confine(parent, memory_bytes)
        with suppress(HungUp, BrokenPipeError, ConnectionError):
            send_answer(asker, b'{"started": true}')
            while True:
                question, file = receive_question(asker)
                send_answer(asker, _answer(question, file))


def _answer(question: dict[str, object], file: int) -> bytes:
    source = Source.of(question, file)
    bound_time(source.limits.parse_timeout_s)
    try:
        with source.file:
            answer = _encoded({"document": _parsed(source)}, source)
    except FileError as error:
        answer = _encoded({"error": {"type": type(error).__name__, "args": list(error.args)}}, source)
    unbound_time()
    return answer


def _parsed(source: Source) -> dict[str, object]:
    out = Output(source)
    try:
        LOADERS[source.media_type].load(source, out)
    except FileError:
        raise
    except MemoryError:
        raise ParserDied(source.path, "out of memory") from None
    except RecursionError:
        raise FileDamaged(source.path, "nested too deeply") from None
    except Exception as error:  # noqa: BLE001 (parsers of other people raise anything, and quote the file in it)
        raise FileDamaged(source.path, type(error).__name__) from None
    return out.document()


def _encoded(answer: dict[str, object], source: Source) -> bytes:
    answer["memory_bytes"] = held_memory_bytes()
    limits: FileLimits = source.limits
    # Escaped, Japanese would be twice as long. Half a surrogate pair, which no UTF-8 has, is none of a text.
    body = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
    if len(body) > limits.max_answer_bytes:
        raise FileTooLarge(
            source.path, len(body), limits.max_answer_bytes, "bytes of text and media", setting_of("max_text_chars")
        )
    return body


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
