"""What a forked child has of its own, as each child of a preloading server has, or of a prefork pool."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from kagura_tasks import forks
from kagura_tasks.settings import RedisUrl

#: A parent that forks while a thread holds `lock`, or just so; what it does later is what its child does.
_PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from kagura_tasks.cache.disk import DiskBackend
from kagura_tasks.cache.memory import MemoryBackend
from kagura_tasks.conversations.local import LocalConversations

def locks_of(kind):
    kept = DiskBackend(Path(sys.argv[2])) if kind == "disk" else MemoryBackend()
    kept = LocalConversations() if kind == "conversations" else kept
    return kept, kept._lock

kept, lock = locks_of(sys.argv[1])
held, done = threading.Event(), threading.Event()

def hold():
    with lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(30)  # one that waits for ever must not outlive the test
    with lock:
        os._exit(7)
done.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

_ON_DISK = """
import asyncio, os, sys
from pathlib import Path
from kagura_tasks.cache.backend import CacheEntry
from kagura_tasks.cache.disk import DiskBackend

def write(me):
    asyncio.run(backend.store(CacheEntry(me, me)))
    return backend.lookup("default", me) is not None

backend = DiskBackend(Path(sys.argv[1]))
assert write("before")
children = []
for number in range(3):
    children.append(os.fork())
    if not children[-1]:
        wrote = all(write(f"{number}-{turn}") for turn in range(20))
        backend = None
        sys.exit(0 if wrote else 1)
assert all(write(f"parent-{turn}") for turn in range(20))
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
assert write("after")
print(asyncio.run(backend.stats()).size)
"""

_ON_REDIS = """
import os, sys
from kagura_tasks.connections import sync_client
from kagura_tasks.settings import RedisUrl

client = sync_client(RedisUrl(sys.argv[1]), 5.0)

def ask(me):
    return [client.eval("return ARGV[1]", 0, f"{me}-{turn}") for turn in range(500)] == [
        f"{me}-{turn}".encode() for turn in range(500)
    ]

assert ask("before")
children = []
for number in range(3):
    children.append(os.fork())
    if not children[-1]:
        os._exit(0 if ask(number) else 1)
assert ask("parent")
print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def _run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", program, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.strip()


@pytest.mark.parametrize("kind", ["disk", "memory", "conversations"])
def test_a_child_waits_for_no_thread_of_its_parent(kind: str, tmp_path: Path):
    """Whatever that thread was doing: it is not there to end it."""
    assert _run(_PROGRAM, kind, str(tmp_path / "cache.sqlite3")) == "7"


def test_a_child_opens_the_file_of_a_cache_itself(tmp_path: Path):
    """SQLite's connections are their process's alone. All write at once, children end, and nothing is lost."""
    assert _run(_ON_DISK, str(tmp_path / "cache.sqlite3")) == str(1 + 3 * 20 + 20 + 1)


def test_what_is_gone_is_not_told():
    """An object is not kept alive for the children that there may be."""

    class Holder:
        def on_fork(self) -> None:
            """Nothing."""

    _ = gc.collect()
    before = len(forks._known)
    holder = Holder()
    forks.watch_forks(holder)
    assert len(forks._known) == before + 1
    del holder
    _ = gc.collect()
    assert len(forks._known) == before


def test_a_child_asks_redis_over_connections_of_its_own(redis_url: RedisUrl):
    """Also through a client that its parent has used. Nobody gets another's answers."""
    assert _run(_ON_REDIS, redis_url) == "0 0 0"
