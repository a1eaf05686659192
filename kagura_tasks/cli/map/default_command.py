"""A group of commands that has one without a word of its own: `map IN OUT` beside `map resume ID`."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

#: What the command is called inside. Nobody types it: where it is given, it is the name of a file.
DEFAULT: Final = "IN OUT"


class DefaultCommand(TyperCommand):
    """The command without a word: help and errors call it by the group's."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """See click: as if the group were the command."""
        if parent is not None:
            info_name, parent = parent.info_name, parent.parent
        return super().make_context(info_name, args, parent=parent, **extra)


class GroupWithDefault(TyperGroup):
    """Takes what begins with none of its commands' words for the arguments of the command without one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        begins_with_a_word = bool(args) and args[0] in self.commands
        # To complete the first word, nothing has to be resolved.
        if not begins_with_a_word and (args or not ctx.resilient_parsing):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """See click: the words, and the options of the command without one."""
        words = super().shell_complete(ctx, incomplete)
        known = {word.value for word in words}
        options = self.commands[DEFAULT].shell_complete(ctx, incomplete)
        return [*words, *(option for option in options if option.value not in known)]
