"""The command line: `kagura-tasks`. One file a command; what a command needs is imported when it runs."""

from __future__ import annotations

import logging
import os
import sys

from kagura_tasks.errors import KaguraTasksError

#: What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130

#: The exit code of what came to its end, where parts of it have no answer: neither a success, nor did it break.
SOME_FAILED = 3


def main() -> None:
    """The program. A failure is one line on standard error and exit code 1; wrong usage is 2, Ctrl-C is 130."""
    # Libraries log what they then raise, and Python prints what nobody listens to: each failure would show twice.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        from typer.main import get_command

        from kagura_tasks.cli.app import app

        get_command(app)(prog_name="kagura-tasks")
    except KaguraTasksError as error:
        _explain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _explain(error: KaguraTasksError) -> None:
    """What went wrong in one line, under the lines of a log that explain it, where there are any."""
    for line in getattr(error, "log_lines", ()):
        print(f"  | {line}", file=sys.stderr)
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
