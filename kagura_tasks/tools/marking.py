"""The mark of a function that models may have called, and how it is found again by its name."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from kagura_tasks.errors import ConfigurationError, ToolNotAllowed
from kagura_tasks.schemas import Json, ToolSpec
from kagura_tasks.tools.arguments import Arguments

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

#: What providers take as a function's name.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Tool:
    """A marked function.

    Attributes:
        function: Itself, plain or a coroutine function.
        place: "module:name", by which a worker finds it.
        arguments: What it takes.
        timeout_s: Seconds for one call; None is the workers' setting.
    """

    function: Callable[..., object]
    place: str
    arguments: Arguments
    timeout_s: float | None = None

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.function.__name__

    @property
    def spec(self) -> ToolSpec:
        """As it travels."""
        about = {"name": self.name, "description": _description(self.function), "parameters": self.arguments.schema}
        return ToolSpec(place=self.place, function=cast(Json, about))


#: All tools of this process, by place. Nothing that is not marked is in it, so no message can name anything else.
_marked: Final[dict[str, Tool]] = {}


@overload
def tool(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tool(*, timeout_s: float | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def tool(function: Callable[P, R] | None = None, /, *, timeout_s: float | None = None) -> Any:
    """Mark a function as one that a model may have called: `@agent(tools=[function])`. It stays what it is.

    Its name, its docstring and the types of its parameters are what the model is told. Its result is told as text, or
    as JSON; a ToolError that it raises is told with its text, any other error with its class's name.

    Args:
        function: A function at the top of a module, plain or `async`, where the decorator is used without arguments.
        timeout_s: Seconds for one call; default: `KAGURA_TASKS_TOOL_TIMEOUT_S` of the worker.

    Raises:
        ConfigurationError: A function that no worker could find or describe: not at the top of a module, without a
            docstring, or with a parameter that has no name or no type.
    """

    def mark(declared: Callable[P, R]) -> Callable[P, R]:
        _check(declared, timeout_s)
        place = f"{declared.__module__}:{declared.__qualname__}"
        _marked[place] = Tool(declared, place, Arguments(declared), timeout_s)
        return declared

    return mark if function is None else mark(function)


def tool_of(function: object) -> Tool:
    """The tool that this function is. Raises ConfigurationError where it is none."""
    place = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    found = _marked.get(place)
    if found is None or found.function is not function:
        name = getattr(function, "__name__", type(function).__name__)
        raise ConfigurationError(f"{name} is no tool: mark the function with @kagura_tasks.tool")
    return found


def marked_here(place: str) -> Tool:
    """The tool of this process. Raises ToolNotAllowed."""
    found = _marked.get(place)
    if found is None:
        raise ToolNotAllowed(place, "no function of this name is marked with @kagura_tasks.tool")
    return found


def allowed(place: str, modules: Sequence[str]) -> Tool:
    """The tool in one of these modules, or in a module under one, which is imported where it is not yet.

    Raises ToolNotAllowed. No other module is imported, and nothing is found that is not marked.
    """
    module = place.partition(":")[0]
    if not any(module == name or module.startswith(f"{name}.") for name in modules):
        raise ToolNotAllowed(place, "its module is not named in KAGURA_TASKS_TOOL_MODULES of the worker")
    try:
        _ = import_module(module)
    except (Exception, SystemExit) as error:
        log.exception("a module of tools cannot be imported: %s", module)
        raise ToolNotAllowed(place, f"its module cannot be imported ({type(error).__name__})") from None
    return marked_here(place)


def _check(function: Callable[..., object], timeout_s: float | None) -> None:
    name = getattr(function, "__name__", "")
    if not inspect.isfunction(function) or function.__qualname__ != name or not _NAME.fullmatch(name):
        known = name or type(function).__name__
        raise ConfigurationError(f"{known} is no tool: a tool is a function with a plain name at the top of a module")
    if not _description(function):
        raise ConfigurationError(f"the tool {name} has no docstring: it tells the model what the function does")
    if timeout_s is not None and not timeout_s > 0:
        raise ConfigurationError(f"the tool {name} has no time: timeout_s is more than 0")


def _description(function: Callable[..., object]) -> str:
    return (inspect.getdoc(function) or "").strip()
