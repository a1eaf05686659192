"""The error tree: every class crosses the wire whole, and says what to do."""

from __future__ import annotations

import inspect
import json
import pickle
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks import errors
from kagura_tasks.errors import (
    KaguraTasksError,
    RateLimited,
    TaskFailed,
    TaskLost,
    TaskPoisoned,
    TransientError,
    rebuild,
)

CLASSES = sorted(
    (one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, KaguraTasksError)),
    key=lambda one: one.__name__,
)

#: A value for each type of a field.
VALUES: dict[object, st.SearchStrategy[Any]] = {
    str: st.text(max_size=50),
    int: st.integers(0, 10**9),
    float: st.floats(0, 1e9, allow_nan=False),
    bool: st.booleans(),
    dict[str, float]: st.dictionaries(st.text(max_size=50), st.floats(0, 1, allow_nan=False), max_size=3),
}


def fields_of(cls: type[KaguraTasksError]) -> dict[str, type]:
    """The names and types of a class's positional fields; those without any take one message."""
    if "__init__" not in {name for one in cls.__mro__[:-3] for name in vars(one)}:
        return {"": str}
    hints = get_type_hints(cls.__init__)
    return {name: hints[name] for name in inspect.signature(cls.__init__).parameters if name != "self"}


@st.composite
def any_error(draw: st.DrawFn) -> KaguraTasksError:
    """Any error, with any fields."""
    cls = draw(st.sampled_from(CLASSES))
    return cls(*(draw(VALUES[kind]) for kind in fields_of(cls).values()))


def over_the_wire(error: KaguraTasksError) -> KaguraTasksError:
    """What arrives on the other side."""
    return rebuild(type(error).__name__, json.loads(json.dumps(list(error.args))))


@given(error=any_error())
def test_an_error_crosses_the_wire_whole(error: KaguraTasksError):
    """Class, args, fields and text are the same on the other side."""
    arrived = over_the_wire(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)


@given(error=any_error())
def test_an_error_survives_pickle_too(error: KaguraTasksError):
    """multiprocessing and Celery's own result format copy exceptions by their args."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, vars(copy), str(copy)) == (type(error), error.args, vars(error), str(error))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_says_something(cls: type[KaguraTasksError]):
    """No error is silent, shows its Python form, or is missing from the tree in the module's docstring."""
    words = {str: "words", int: 429, float: 1.5, bool: True, dict[str, float]: {"near": 0.2}}
    error = cls(*(words[kind] for kind in fields_of(cls).values()))
    assert str(error)
    assert not str(error).startswith("(")
    assert f" {cls.__name__} " in (errors.__doc__ or "").replace("\n", " ")
    assert cls.__doc__


def test_fields_that_were_not_given_have_defaults_on_both_sides():
    """An error made with one field only is the same error when it arrives."""
    error = over_the_wire(RateLimited("too many requests"))
    assert isinstance(error, RateLimited)
    assert (error.model, error.status, error.retry_after_s) == ("", 0, 0.0)


def test_a_rate_limit_says_how_long_to_wait():
    """The provider's wait arrives with the error."""
    error = over_the_wire(RateLimited("too many requests", "openai/m", 429, 7.5))
    assert isinstance(error, TransientError)
    assert error.retry_after_s == 7.5
    assert str(error) == "openai/m: too many requests (HTTP 429)"


@pytest.mark.parametrize("kind", ["SystemExit", "Exception", "rebuild", "os", "__builtins__", "ClassVar", "", "Ghost"])
def test_only_errors_of_ours_are_rebuilt(kind: str):
    """What stands in Redis cannot choose what runs here: an unknown name is a TaskFailed that says it."""
    error = rebuild(kind, ["echo"])
    assert type(error) is TaskFailed
    assert error.kind == kind


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("RateLimited", []),
        ("RateLimited", ["m", "m", 1, 1.0, "one too many"]),
        ("PromptTooLarge", ["large", None]),
        ("ResultTimeout", ["id", "long"]),
        ("RateLimited", [None, 5, "x", []]),
    ],
)
def test_fields_of_another_version_are_no_crash(kind: str, args: list[object]):
    """Whatever fields arrive, the caller gets an error of ours with a text."""
    error = rebuild(kind, args)
    assert isinstance(error, KaguraTasksError)
    assert str(error)


def test_a_poisoned_task_is_a_failed_one():
    """Whoever catches TaskFailed catches it, and finds what killed and how often; the text names the command."""
    error = over_the_wire(TaskPoisoned("some-task", 3))
    assert isinstance(error, TaskFailed)
    assert isinstance(error, TaskPoisoned)
    assert (error.task_id, error.deaths, error.kind) == ("some-task", 3, "WorkerLostError")
    assert "task some-task killed its worker 3 times" in str(error)
    assert "`kagura-tasks dead`" in str(error)


def test_a_lost_task_is_no_failed_one():
    """Nothing is wrong with it: sending it again helps, and the text says what keeps Redis from losing tasks."""
    error = over_the_wire(TaskLost("some-task"))
    assert isinstance(error, TaskLost)
    assert not isinstance(error, TaskFailed)
    assert "task some-task is lost" in str(error)
    assert "appendonly" in str(error)


def test_a_timeout_is_also_pythons():
    """`except TimeoutError` catches our timeout."""
    assert issubclass(errors.ResultTimeout, TimeoutError)
