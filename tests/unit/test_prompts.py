"""Templates: what they may use, and what is said of a value that is missing."""

from __future__ import annotations

import pytest

from kagura_tasks.errors import PromptError, PromptTooLarge
from kagura_tasks.prompts import PromptTemplate


def test_a_template_over_rows_says_which_names_it_uses():
    """Where nobody knows the names yet, they are those of the template; loop variables and globals are none."""
    source = "{{ title }}{% for one in tags %}{{ one }}{{ range(3) | length }}{% endfor %}"
    template = PromptTemplate.parse(source, None, "rows.jsonl")
    assert template.names == {"title", "tags"}
    assert template.render({"title": "A", "tags": ["x"], "more": 1}, 100) == "Ax3"


def test_a_value_that_is_missing_is_named():
    """A row without the field is an error, and never an empty text in a prompt that is paid for."""
    template = PromptTemplate.parse("{{ title }} {{ body.text }}", None, "rows.jsonl")
    with pytest.raises(PromptError, match="'title' is undefined"):
        template.render({"body": {"text": "x"}}, 100)
    with pytest.raises(PromptError, match="no attribute 'text'"):
        template.render({"title": "A", "body": {}}, 100)


def test_names_that_are_known_are_the_only_ones():
    """With names given, another one is an error when the template is read."""
    assert PromptTemplate.parse("{{ a }}", frozenset("ab"), "ask").names == {"a", "b"}
    with pytest.raises(PromptError, match=r"of ask uses c, d, which it is not given \(known: a, b\)"):
        PromptTemplate.parse("{{ c }}{{ d }}{{ a }}", frozenset("ab"), "ask")


@pytest.mark.parametrize("source", ["{{ a * 9 }}", "{{ a ** 9 }}", "{% if %}", "x" * 100_001, "\ud83d"])
def test_a_template_that_cannot_work_is_said_at_once(source: str):
    """Also where the names are not known."""
    with pytest.raises(PromptError, match="of rows"):
        PromptTemplate.parse(source, None, "rows")


def test_a_prompt_is_stopped_while_it_grows():
    """Its limit counts what was made of it, not what went in."""
    template = PromptTemplate.parse("{% for _ in range(99999) %}{{ a }}{% endfor %}", None, "rows")
    with pytest.raises(PromptTooLarge):
        template.render({"a": "xxxxxxxxxx"}, 1000)
