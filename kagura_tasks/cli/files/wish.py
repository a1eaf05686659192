"""What was typed behind `kagura-tasks files`."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Wish:
    """What was typed.

    Attributes:
        folder: The folder, or a file.
        typed: The two prompts as they were typed: a text, or @ and a file with it.
        prompt: What is asked about each file.
        reduce: What is asked about all answers; None: nothing.
        output: Where the lines go; None: nowhere.
        pattern: Which files; None: all.
        manifest: Whose failed files are tried again; None: it is about all of the folder.
        overwrite: Replace an output that is there.
        run_id: The run's id.
        tenant: Whose data this is.
        options: How the run is worked on, and its calls are made; see LLMClient.process_files.
    """

    folder: str
    typed: tuple[str, str | None]
    prompt: str
    reduce: str | None
    output: str | None
    pattern: str | None
    manifest: str | None
    overwrite: bool
    run_id: str
    tenant: str | None
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def about(self) -> dict[str, str]:
        """What is kept with the run: `work` tells it from one that asks something else, or about other files."""
        folder = str(Path(self.folder).absolute())
        work = json.dumps([folder, self.pattern, _absolute(self.manifest), self.prompt, self.reduce])
        about = {"input": folder, "work": hashlib.sha256(work.encode()).hexdigest()}
        return {**about, "output": str(Path(self.output).absolute())} if self.output else about

    def resume(self) -> str:
        """The command that goes on with the run."""
        return self._command(*self._what, *_option("--out", self.output), "--id", self.run_id)

    def retry(self, manifest: str) -> str:
        """The command that tries again what failed, by its lines in this file."""
        output = Path(manifest)
        other = output.with_name(f"{output.stem}-2{output.suffix}")
        return self._command("--retry-failed", manifest, "--out", str(other))

    def anew(self) -> str:
        """The command that asks once more about all."""
        output = [*_option("--out", self.output), "--overwrite"] if self.output else []
        return f"{self._command(*self._what, *output)} (and the same options)"

    @property
    def _what(self) -> list[str]:
        """The options that say what is asked, and about which files."""
        files = [*_option("--pattern", self.pattern), *_option("--retry-failed", self.manifest)]
        return [*_option("--reduce", self.typed[1]), *files]

    def _command(self, *options: str) -> str:
        words = ["kagura-tasks", "files", self.folder, "--prompt", self.typed[0], *options]
        return shlex.join([*words, *_option("--tenant", self.tenant)])


def _option(name: str, value: str | None) -> list[str]:
    return [] if value is None else [name, value]


def _absolute(name: str | None) -> str | None:
    """The file's name, for another folder."""
    return None if name is None else str(Path(name).absolute())
