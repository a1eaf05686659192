"""What is sent again: the same message with another name, whatever it was."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.dead_letters import (
    ATTEMPT_HEADER,
    DEATHS_HEADER,
    _as_new,  # pyright: ignore[reportPrivateUsage]
    message_in,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
OBJECT = st.dictionaries(st.text(max_size=10), JSON, max_size=4)
PAST = st.fixed_dictionaries({}, optional={ATTEMPT_HEADER: JSON, DEATHS_HEADER: JSON})
MESSAGES = st.builds(
    lambda rest, headers, past, properties, tag: {
        **rest,
        "headers": {**headers, **past},
        "properties": {**properties, "delivery_tag": tag},
    },
    *(OBJECT, OBJECT, PAST, OBJECT, JSON),
)


@given(message=MESSAGES)
def test_a_message_keeps_all_but_its_past(message: dict[str, Any]):
    """Another delivery tag, no attempt, no death; everything else is as it was."""
    new = json.loads(_as_new(json.dumps(message).encode()))
    assert new["properties"].pop("delivery_tag") != message["properties"].pop("delivery_tag")
    for header in (ATTEMPT_HEADER, DEATHS_HEADER):
        assert header not in new["headers"]
        message["headers"].pop(header, None)
    assert new == message


@given(message=MESSAGES)
def test_no_two_sendings_have_the_same_tag(message: dict[str, Any]):
    """A worker settles a message by its tag."""
    raw = json.dumps(message).encode()
    assert json.loads(_as_new(raw))["properties"] != json.loads(_as_new(raw))["properties"]


@given(
    raw=st.binary(max_size=100)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(lambda parts: json.dumps(dict.fromkeys(["headers", "properties"], parts)).encode(), JSON)
    | st.integers(1, 200_000).map(
        lambda depth: b'{"headers":{},"properties":{"x":' + b"[" * depth + b"]" * depth + b"}}"
    )
)
def test_what_is_no_message_stays_as_it_is(raw: bytes):
    """Whatever stands in a queue: no crash, and either a message or the same bytes."""
    new = _as_new(raw)
    assert new == raw if message_in(raw) is None else message_in(new) is not None
