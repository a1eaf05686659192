"""Writes the reference of the command line: `python -m kagura_tasks.cli.reference > docs/reference/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from typer.main import get_command

from kagura_tasks.cli.app import app
from kagura_tasks.cli.map.default_command import DEFAULT

_PROGRAM: Final = "kagura-tasks"

_INTRODUCTION: Final = """\
# Command line

<!-- Written by `python -m kagura_tasks.cli.reference`; a test compares. -->

{help}

{epilog}

A failure is one line on standard error, `error: ...`, and exit code 1. Wrong usage is exit code 2, Ctrl-C is 130; it is
the usual end of `up` and of `demo --keep`, and 0 there. `NO_COLOR` is honoured. `kagura-tasks --install-completion`
makes your shell complete commands and options.
"""


def markdown() -> str:
    """The whole page."""
    # Click's objects come from a private module of Typer in some versions and from click in others.
    root = cast(Any, get_command(app))
    page = [_INTRODUCTION.format(help=root.help, epilog=root.epilog)]
    page += [_section(words, command) for words, command in _leaves(_PROGRAM, root)]
    return "\n".join(page)


def _leaves(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Each command that does something, with all the words that call it."""
    for name, child in command.commands.items():
        if name == DEFAULT:
            yield words, child
        elif hasattr(child, "commands"):
            yield from _leaves(f"{words} {name}", child)
        else:
            yield f"{words} {name}", child


def _section(words: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join([words, *(_metavar(param) for param in arguments), "[OPTIONS]"])
    rows = [_row(param) for param in command.params]
    table = "\n".join(["| | | default |", "|---|---|---|", *rows])
    return f"## {words}\n\n```\n{usage}\n```\n\n{command.help}\n\n{table}\n"


def _row(param: Any) -> str:
    is_argument = param.param_type_name == "argument"
    names = f"`{_metavar(param)}`" if is_argument else ", ".join(f"`{name}`" for name in param.opts)
    text = str(param.help).replace("|", "\\|")
    return f"| {names} | {text} | {_default(param)} |"


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.nargs == 1 else f"[{name}]..."


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    has_one = param.default not in (None, False) and param.param_type_name == "option"
    return f"`{param.default}`" if has_one else ""


if __name__ == "__main__":
    print(markdown(), end="")
