"""A program that imports the modules it is told to, and forks a process for each line of its standard input.

A line is an order: JSON with the fields of `preloaded.Order`, and the id of its owner, who gives it. The answer is the
process's id, on a line of its own: by then it is a child of the owner, and dies with it. The program ends when its
standard input does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.001


def next_order() -> dict[str, Any]:
    """The next order, in the process that was forked for it: no other one returns from here."""
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            _leave_home()
            return json.loads(line)
        os.waitpid(child, 0)
    sys.exit()


def _leave_home() -> None:
    """Go on in a grandchild of the process that forks. Its parent ends at once, so that another one takes it over."""
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(_POLL_S)


def settle(owner: int) -> None:
    """Have a session of one's own, and be killed by Linux when the owner dies, however it dies."""
    os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before.
    if os.getppid() != owner:
        sys.exit("whoever wanted this process is gone")


def become(order: dict[str, Any]) -> None:
    """Have the environment, the arguments and the files that a fresh process would be given."""
    environment = order["environment"]
    # The working folder comes first.
    sys.path[1 : 1 + len(_python_path(os.environ))] = _python_path(environment)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = order["arguments"]
    # An import may have asked for the folder of temporary files, which is then remembered.
    tempfile.tempdir = None
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for file, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(log)


def _python_path(environment: Mapping[str, str]) -> list[str]:
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]


def refuse_threads() -> None:
    """A fork copies no thread, but a lock that one holds."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        sys.exit("something started a thread when it was imported: a process that has one must not fork")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    refuse_threads()
    # The collector would touch, and so copy, every page that the processes share.
    gc.collect()
    gc.freeze()
    order = next_order()
    settle(order["owner"])
    os.write(1, f"{os.getpid()}\n".encode())
    become(order)
    # What `python -m` does.
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
