"""Prompts from templates: Jinja2 in a sandbox, where an unknown name is an error and output is bounded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from jinja2 import StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kagura_tasks.errors import PromptError, PromptTooLarge
from kagura_tasks.schemas import is_unicode

#: Operators that make much text out of little: the sandbox lets them through, so the template may not use them.
_GROWING: Final = (nodes.Mul, nodes.Pow)

_MAX_TEMPLATE_CHARS: Final = 100_000

# autoescape is for HTML: a prompt is plain text, and must reach the model as it was written.
_environment: Final = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


@dataclass(frozen=True)
class PromptTemplate:
    """A template that was checked.

    Attributes:
        template: As Jinja2 runs it.
        names: The variables that it may use; where nobody said which, those that it uses.
        source: What was parsed.
    """

    template: Template
    names: frozenset[str]
    source: str = ""

    @classmethod
    def parse(cls, source: str, names: frozenset[str] | None, where: str) -> PromptTemplate:
        """Check the template. Raises PromptError for a syntax error, or a name that nobody will give.

        Args:
            source: Jinja2.
            names: What will be given when it is rendered; None: that is not known yet.
            where: Whose template it is, for messages.
        """
        if len(source) > _MAX_TEMPLATE_CHARS:
            raise PromptError(f"the prompt of {where} has more than {_MAX_TEMPLATE_CHARS:,} characters")
        if not is_unicode(source):
            raise PromptError(f"the prompt of {where} holds half a character (a lone surrogate)")
        try:
            tree = _environment.parse(source)
            template = _environment.from_string(tree)
        except TemplateError as error:
            raise PromptError(f"the prompt of {where} is no valid template: {error}") from None
        used = meta.find_undeclared_variables(tree)
        if names is not None:
            _check_known(used, names, where)
        if next(tree.find_all(_GROWING), None) is not None:
            raise PromptError(f"the prompt of {where} multiplies: compute such values in Python, and give them")
        return cls(template, frozenset(used) if names is None else names, source)

    def render(self, values: Mapping[str, object], limit_bytes: int) -> str:
        """The prompt's text.

        Raises:
            PromptError: The template fails on these values, or uses a variable that is not among them: it is named.
            PromptTooLarge: There would be more of it.
        """
        pieces: list[str] = []
        size = 0
        try:
            for piece in self.template.generate(values):
                size += len(piece)
                if size > limit_bytes:
                    raise PromptTooLarge(size, limit_bytes)
                pieces.append(piece)
        except TemplateError as error:
            raise PromptError(f"the prompt cannot be rendered: {error}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise PromptError(f"the prompt cannot be rendered: {type(error).__name__} in the template") from None
        return "".join(pieces).strip()


def _check_known(used: set[str], names: frozenset[str], where: str) -> None:
    unknown = sorted(used - names)
    if unknown:
        known = ", ".join(sorted(names)) or "none"
        raise PromptError(f"the prompt of {where} uses {', '.join(unknown)}, which it is not given (known: {known})")


def template_of(function: Callable[..., object]) -> PromptTemplate:
    """The docstring of the function, as a template over its parameters. Raises PromptError."""
    source = inspect.getdoc(function)
    if not source:
        raise PromptError(f"{function.__name__} has no docstring: an agent's docstring is its prompt")
    names = frozenset(inspect.signature(function).parameters)
    return PromptTemplate.parse(source, names, function.__name__)
