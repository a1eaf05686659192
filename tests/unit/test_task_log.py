"""The task log's lines: how they leave a worker. What they say is tested with workers."""

from __future__ import annotations

import asyncio
import io

from kagura_tasks.worker.task_log import LinesOfATurn


class Stream(io.StringIO):
    """A stream that knows how often it was written to."""

    writes = 0

    def write(self, text: str, /) -> int:
        self.writes += 1
        return super().write(text)


async def test_lines_of_one_turn_of_the_loop_leave_together():
    """In one system call, in their order; those of the next turn follow."""
    lines = LinesOfATurn(stream := Stream())
    for number in range(3):
        lines.write(f"{number}\n")
        lines.flush()
    await asyncio.sleep(0)
    assert (stream.getvalue(), stream.writes) == ("0\n1\n2\n", 1)
    lines.write("3\n")
    await asyncio.sleep(0)
    assert (stream.getvalue(), stream.writes) == ("0\n1\n2\n3\n", 2)


def test_without_a_loop_each_line_leaves_at_once():
    """On threads, and in the children of prefork."""
    lines = LinesOfATurn(stream := Stream())
    lines.write("0\n")
    assert stream.getvalue() == "0\n"
