"""A parser that a hostile file has taken over: what it answers is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from kagura_tasks.errors import ParserDied
from kagura_tasks.files.documents import FileRef
from kagura_tasks.files.loading import FileLoader
from kagura_tasks.files.pool import ParserPool
from tests.support.wait import until

#: Parsers that are none, by what is said of them. `asker` is the socket to whoever asks.
NONSENSE = {
    "exit code 7": "os._exit(7)",
    "announced an answer of 4,294,967,295 bytes": "asker.sendall(b'\\xff' * 4); asker.sendall(b'x' * (1 << 30))",
    "not JSON": "asker.sendall(struct.pack('>I', 7) + b'garbage'); time.sleep(60)",
    "no JSON object": "asker.sendall(struct.pack('>I', 2) + b'[]'); time.sleep(60)",
    "neither a document": "asker.sendall(struct.pack('>I', 2) + b'{}'); time.sleep(60)",
    "exit code 0": "asker.sendall(struct.pack('>I', 100) + b'{'); os._exit(0)",
    "nor an error of a file": "send({'error': {'type': 'SystemExit', 'args': ['x']}}); time.sleep(60)",
    "no document: text": "send({'document': {'text': 5}, 'memory_bytes': 1}); time.sleep(60)",
}
STUB = """
import json, os, socket, struct, sys, time
asker = socket.socket(fileno=0)
def send(answer):
    body = json.dumps(answer).encode()
    asker.sendall(struct.pack(">I", len(body)) + body)
send({"started": True})
asker.recv(1)
"""


@pytest.mark.parametrize("reason", NONSENSE)
async def test_a_parser_that_talks_nonsense_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str):
    """A hostile file may have taken it over: its answer is not believed, nor read without end."""
    folder = tmp_path / "stub/kagura_tasks/files"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").write_text("")
    (folder / "child.py").write_text(STUB + NONSENSE[reason])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    (tmp_path / "a.txt").write_text("text")
    async with ParserPool(1) as pool:
        loaded = await FileLoader(pool).load(FileRef(root=str(tmp_path), path="a.txt"))
        assert isinstance(loaded.row.exception, ParserDied)
        assert reason in loaded.row.reason
        assert loaded.row.seconds < 10
    until(lambda: not _parsers_of(os.getpid()), 5)


def _parsers_of(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for child in psutil.Process(pid).children():
        try:
            if any("files.child" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
