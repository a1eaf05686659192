"""Fail on code that Python would run by itself at start-up, and on releases known to be malicious.

Malicious LiteLLM releases carried a `.pth` file or a `sitecustomize.py`: Python runs both in every process, whatever it
imports. Looks at this interpreter's site-packages, or at the folders that are named.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

#: Modules that Python's own `site` imports at every start.
START_UP_MODULES = {"sitecustomize", "usercustomize"}

#: .pth files that may run code, by the SHA-256 of all they contain.
KNOWN_CODE = {
    # setuptools (it comes with Python 3.11's venv): puts its copy of distutils before the standard library's.
    "distutils-precedence.pth": "2638ce9e2500e572a5e0de7faed6661eb569d1b696fcba07b0dd223da5f5d224",
}

#: .pth files that may name one folder each, and which.
KNOWN_PATHS = {"_kagura_tasks.pth": PROJECT}

BLOCKED = {"litellm": {"1.82.7", "1.82.8", "1.107.0"}, "litellm-core": {"1.82.7", "1.82.8", "1.107.0"}}


def pth_finding(file: Path) -> str | None:
    """What is wrong with a .pth file; None if it is known, by its name and by what is in it."""
    content = file.read_bytes()
    if file.name in KNOWN_CODE:
        known = hashlib.sha256(content).hexdigest() == KNOWN_CODE[file.name]
        return None if known else "it is not the file known by that name"
    if file.name in KNOWN_PATHS:
        folder = KNOWN_PATHS[file.name]
        lines = content.decode(errors="replace").splitlines()
        # Absolute: a line that starts with "import" is no path but code.
        only_that = len(lines) == 1 and Path(lines[0]).is_absolute() and Path(lines[0]).resolve() == folder
        return None if only_that else f"it may only say {folder}"
    return "no known package brings it"


def findings(site_packages: Path) -> Iterator[str]:
    """One line for each thing that does not belong in `site_packages`: what it is, and how to mend it."""
    mend = "see what put it there, then `make clean` and set up again"
    for file in sorted(site_packages.iterdir()):
        if file.suffix == ".pth" and (wrong := pth_finding(file)):
            yield f"{file}: Python reads it at every start, and {wrong}: {mend}"
        # sitecustomize.py, and as well a folder, a .pyc or a compiled module of that name.
        if file.name.split(".")[0] in START_UP_MODULES:
            yield f"{file}: Python runs it at every start: {mend}"
    for installed in distributions(path=[str(site_packages)]):
        name = installed.name.lower().replace("_", "-")
        if installed.version in BLOCKED.get(name, ()):
            yield (
                f"{name} {installed.version} is a malicious release: take this machine off the network, change every"
                " secret it could read, and install the version that requirements.lock names"
            )


def main() -> int:
    """Print one line for each finding. The exit code says whether there was one."""
    own = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site_packages", nargs="*", type=Path, default=[Path(folder) for folder in own])
    folders: list[Path] = parser.parse_args().site_packages
    lines = [line for folder in folders for line in findings(folder)]
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
