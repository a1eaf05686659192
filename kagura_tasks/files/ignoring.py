"""Which files are left out: the rules of `.gitignore`, as git has them, in `.gitignore` and `.kaguraignore`.

Folders come from outside: a pattern is matched name by name, and takes no step back. The regular expressions that
pathspec 1.1 makes do, and with them one line of a `.gitignore` (`*a*a*a*a*a*b`) hangs the scan.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

#: In this order: what is in a later one wins.
IGNORE_FILES: Final = (".gitignore", ".kaguraignore")

#: A larger file of rules is no file of rules.
MAX_IGNORE_BYTES: Final = 1_000_000

_ANY_NAMES: Final = "**"


@dataclass(frozen=True)
class IgnoreRule:
    """One line of a file of rules.

    Attributes:
        source: The file, below the root.
        line: The line as it is written.
        names: A pattern for each name of the path; `**` stands for any number of names.
        is_negated: What it matches is not left out after all.
        only_folders: It matches folders alone.
    """

    source: str
    line: str
    names: tuple[str, ...]
    is_negated: bool
    only_folders: bool

    def matches(self, path: Sequence[str], is_folder: bool) -> bool:
        """The path, relative to the folder of the rule, is what the rule is about."""
        return (is_folder or not self.only_folders) and _match(self.names, path)


@dataclass(frozen=True)
class IgnoreRules:
    """The rules of one folder, and those of the folders above it.

    Attributes:
        depth: How many names below the root the folder is.
        rules: Its own rules, the first line first.
        above: The rules of the folder above.
    """

    depth: int = 0
    rules: tuple[IgnoreRule, ...] = ()
    above: IgnoreRules | None = None

    def rule_for(self, path: Sequence[str], is_folder: bool) -> IgnoreRule | None:
        """The rule that leaves this path (the names below the root) out, or None. Its folder itself is not left out."""
        here: IgnoreRules | None = self
        while here is not None:
            for rule in reversed(here.rules):
                if rule.matches(path[here.depth :], is_folder):
                    return None if rule.is_negated else rule
            here = here.above
        return None

    def below(self, depth: int, rules: Sequence[IgnoreRule]) -> IgnoreRules:
        """The rules of a folder that is `depth` names below the root."""
        return IgnoreRules(depth, tuple(rules), self) if rules else self


def parse_rules(text: str, source: str) -> list[IgnoreRule]:
    """The rules in a file's text. A line that is no rule says nothing, as in git."""
    return [rule for line in text.split("\n") if (rule := parse_rule(line.removesuffix("\r"), source))]


def parse_rule(line: str, source: str) -> IgnoreRule | None:
    """The rule in a line; None for a comment, a blank line, and what can match nothing."""
    pattern = re.sub(r"(?<!\\)((?:\\\\)*) +$", r"\1", line)
    if not pattern or pattern.startswith("#"):
        return None
    is_negated = pattern.startswith("!")
    pattern = pattern.removeprefix("!")
    only_folders = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    names = pattern.removeprefix("/").split("/")
    if "" in names:
        return None
    is_anchored = "/" in pattern
    full = tuple(names) if is_anchored else (_ANY_NAMES, *names)
    return IgnoreRule(source, line, full, is_negated, only_folders)


def _match(names: tuple[str, ...], path: Sequence[str]) -> bool:
    """Greedy, back to the last `**` alone: no pattern takes more steps than names times patterns."""
    at = here = 0
    last_any, resume = -1, 0
    while here < len(path):
        # At the end, `a/**` is all that is in `a`, and not `a` itself: it takes one name at least.
        if at < len(names) and names[at] == _ANY_NAMES:
            last_any, resume = at, here + (at == len(names) - 1)
            at, here = at + 1, resume
        elif at < len(names) and _segment(names[at]).match(path[here]):
            at, here = at + 1, here + 1
        elif last_any >= 0:
            resume += 1
            at, here = last_any + 1, resume
        else:
            return False
    return here == len(path) and at == len(names)


@lru_cache(maxsize=4096)
def _segment(pattern: str) -> re.Pattern[str]:
    """One name's pattern as a regular expression that is done after one pass: what `*` took is not given back."""
    fixed = [""]
    rest = pattern
    try:
        while rest:
            if rest.startswith("*"):
                fixed.append("")
                rest = rest[1:]
            else:
                one, rest = _first_of(rest)
                fixed[-1] += one
        first, *others = fixed
        if not others:
            return re.compile(first + r"\Z", re.DOTALL)
        *middle, last = others
        return re.compile(first + "".join(f"(?>.*?{one})" for one in middle) + f".*{last}\\Z", re.DOTALL)
    except (ValueError, re.error):  # a class without an end, a range backwards: it matches nothing
        return re.compile(r"(?!)")


def _first_of(pattern: str) -> tuple[str, str]:
    """The first sign as a regular expression, and the rest. Raises ValueError where it has no end."""
    if pattern.startswith("?"):
        return ".", pattern[1:]
    if pattern.startswith("["):
        return _class(pattern)
    if pattern.startswith("\\"):
        if len(pattern) == 1:
            raise ValueError("nothing is escaped")
        return re.escape(pattern[1]), pattern[2:]
    return re.escape(pattern[0]), pattern[1:]


_CLASS: Final = re.compile(r"\[(?P<not>[!^]?)(?P<body>\]?(?:\[:\w*:\]|\\.|[^\]\\])*)\]", re.DOTALL)
_IN_CLASS: Final = re.compile(r"\[:(?P<name>\w*):\]|\\(?P<escaped>.)|(?P<range>-)|(?P<plain>.)", re.DOTALL)

#: POSIX's classes of ASCII characters.
_NAMED: Final = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "xdigit": "0-9a-fA-F",
    "space": r"\s",
    "punct": "!-/:-@\\[-`{-~",
}


def _class(pattern: str) -> tuple[str, str]:
    found = _CLASS.match(pattern)
    if found is None:
        raise ValueError("a class without an end")
    body = "".join(_class_member(member) for member in _IN_CLASS.finditer(found["body"]))
    return f"[{'^' if found['not'] else ''}{body}]", pattern[found.end() :]


def _class_member(member: re.Match[str]) -> str:
    if (name := member["name"]) is not None:
        if name not in _NAMED:
            raise ValueError("no such class")
        return _NAMED[name]
    return "-" if member["range"] else re.escape(member["escaped"] or member["plain"])
