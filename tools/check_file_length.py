"""Fail on source files that are too long to be read in one sitting.

Looks at the *.py and *.lua files that git tracks, and at new ones that it does not ignore.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

MAX_LINES = 400


def source_files(folder: Path) -> list[Path]:
    """The Python and Lua files under `folder` that are, or are about to be, part of its repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py", "*.lua"]
    listed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    # A name may be listed that is deleted in the work tree, and one in the middle of a merge is listed several times.
    return sorted({folder / name for name in listed.split("\0") if name and (folder / name).is_file()})


def line_count(content: bytes) -> int:
    """Lines as an editor counts them: the last one counts without a newline too."""
    return content.count(b"\n") + (bool(content) and not content.endswith(b"\n"))


def main() -> int:
    """Print one line for each file that is too long. The exit code says whether there was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    folder: Path = parser.parse_args().folder
    try:
        files = source_files(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{folder}: git cannot list its files ({error}): run this in a clone, with git on PATH")
        return 2
    findings = 0
    for file in files:
        lines = line_count(file.read_bytes())
        if lines > MAX_LINES:
            findings += 1
            print(f"{file.relative_to(folder)}: {lines} lines, {MAX_LINES} at most: split it by what its parts are for")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
