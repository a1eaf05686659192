"""What a map of the command line is about: its files, kept with the map so that `map resume` finds them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kagura_tasks.cli.inputs import STDIN
from kagura_tasks.errors import InvalidRequest

if TYPE_CHECKING:
    from kagura_tasks.batch_files.output import OutputFile
    from kagura_tasks.batch_files.rows import RowFormat


@dataclass(frozen=True)
class MapFiles:
    """The files of a map.

    Attributes:
        source: Where its rows came from: an absolute path, or "-".
        output: Where its answers go: an absolute path.
        form: How the rows of both are written.
    """

    source: str
    output: Path
    form: RowFormat

    @classmethod
    def found_in(cls, about: dict[str, str], map_id: str) -> Self:
        """Those that were kept with the map. Raises InvalidRequest where it is none of the command line's."""
        if "work" in about:
            raise InvalidRequest(f"{map_id} is a run over files: `kagura-tasks files` with its --id goes on")
        if about.keys() < {"input", "output", "form"} or about["form"] not in ("rows", "batch"):
            raise InvalidRequest(f"map {map_id} has no file: it was started in Python, and `LLMClient.group` reads it")
        return cls(about["input"], Path(about["output"]), about["form"])

    def about(self) -> dict[str, str]:
        """What is kept with the map."""
        return {"input": self.source, "output": str(self.output), "form": self.form}

    def check_form(self, output: OutputFile) -> None:
        """Raises InvalidRequest where the rows that are in the output are of the other form."""
        if output.format not in (None, self.form):
            raise InvalidRequest(f"the rows in {self.output} are of another form than those in {self.source}")

    def anew(self) -> str:
        """The command that sends what the output lacks."""
        words = ["kagura-tasks", "map", self.source, str(self.output), "--resume"]
        return f"{shlex.join(words)} (and the same options)"


def resume_command(map_id: str, tenant: str | None) -> str:
    """The command that goes on with a map."""
    return shlex.join(["kagura-tasks", "map", "resume", map_id, *(["--tenant", tenant] if tenant else [])])


def absolute(name: str) -> str:
    """The file's name, for another folder; standard input stays what it is."""
    return name if name == STDIN else str(Path(name).absolute())
