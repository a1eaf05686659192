"""Files of rows: what is read, and what is refused with its line number."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest

from kagura_tasks.batch_files.reader import RowReader
from kagura_tasks.batch_files.rows import RowOptions
from kagura_tasks.errors import RowsInvalid
from kagura_tasks.groups import MapItem
from kagura_tasks.prompts import PromptTemplate
from kagura_tasks.schemas import CompletionRequest
from kagura_tasks.settings import Settings

OPTIONS = RowOptions(Settings())


def reader(text: str | bytes, options: RowOptions = OPTIONS, **how: Any) -> RowReader:
    given = text.encode() if isinstance(text, str) else text
    return RowReader(io.BytesIO(given), "rows.jsonl", options, **how)


def items(text: str | bytes, options: RowOptions = OPTIONS, **how: Any) -> list[MapItem]:
    return list(reader(text, options, **how))


def requests(text: str | bytes, options: RowOptions = OPTIONS) -> list[CompletionRequest]:
    return [item.prompt for item in items(text, options) if isinstance(item.prompt, CompletionRequest)]


def refused(text: str | bytes, options: RowOptions = OPTIONS) -> RowsInvalid:
    with pytest.raises(RowsInvalid) as caught:
        items(text, options)
    return caught.value


def template(source: str, *names: str) -> RowOptions:
    return RowOptions(Settings(), PromptTemplate.parse(source, frozenset(names), "--template"))


def batch_row(custom_id: str = "a", **body: Any) -> str:
    whole = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": whole})


def test_a_row_is_a_request():
    """Prompt or chat turns, model and parameters."""
    first, second = requests(
        '{"prompt": "hi", "model": "openai/gpt-x", "params": {"temperature": 0.5}}\n'
        '{"messages": [{"role": "user", "content": "ho"}]}\n'
    )
    assert (first.messages[0].content, first.model, first.params) == ("hi", "openai/gpt-x", {"temperature": 0.5})
    assert (second.messages[0].content, second.model) == ("ho", Settings().default_model)


def test_a_row_of_a_batch_is_a_request():
    """All of its body but model and messages are parameters; that nothing is streamed goes without saying."""
    [request] = requests(batch_row(temperature=0, stream=False, user="u-1"))
    assert (request.model, request.messages[0].content) == ("gpt-4o-mini", "hi")
    assert request.params == {"temperature": 0, "user": "u-1"}


def test_the_template_makes_a_prompt_of_a_rows_fields():
    """A row may have more fields than the template uses, and fields that would mean something without it."""
    [request] = requests('{"text": "Hallo", "prompt": 1, "more": [2]}', template("Translate: {{ text }}", "text"))
    assert request.messages[0].content == "Translate: Hallo"


def test_what_is_said_about_all_rows_wins():
    """Model and parameters replace a row's own; a system message is for rows that have none."""
    options = RowOptions(Settings(), model="openai/gpt-y", system="Be brief.", params={"temperature": 1})
    own = '{"messages": [{"role": "system", "content": "Be long."}, {"role": "user", "content": "ho"}]}'
    first, second = requests('{"prompt": "hi", "model": "m", "params": {"temperature": 0, "seed": 1}}\n' + own, options)
    assert (first.model, first.params) == ("openai/gpt-y", {"temperature": 1, "seed": 1})
    assert [turn.content for turn in first.messages] == ["Be brief.", "hi"]
    assert [turn.content for turn in second.messages] == ["Be long.", "ho"]


def test_a_row_without_a_name_is_called_by_its_line():
    """Blank lines count, so that the number is the one that an editor shows; a byte order mark is none of the text."""
    named = b'{"id": 7, "prompt": "c"}\n{"custom_id": "x", "prompt": "d"}'
    text = b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": "b"}\n' + named
    assert [item.custom_id for item in items(text)] == ["1", "4", "7", "x"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b"{", "is not JSON (column 2)"),
        (b"[1]", "is not a JSON object"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b'{"prompt": NaN}', "is not JSON that can be read"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (b'{"prompt": "' + b"x" * 8_000_001 + b'"}', "is too long"),
        (b'{"prompt": "' + b"x" * 1_100_000 + b'"}', "KAGURA_TASKS_MAX_PROMPT_BYTES"),
        (b"{}", "needs `prompt` or `messages`"),
        (b'{"prompt": "secret", "messages": []}', "not both"),
        (b'{"prompt": 1}', "prompt: not a text"),
        (b'{"prompt": " "}', "the prompt is empty"),
        (b'{"prompt": "secret \\ud800"}', "half of a character"),
        (b'{"messages": "secret"}', "messages"),
        (b'{"messages": ["secret"]}', "messages"),
        (b'{"messages": [{"content": "secret"}]}', "role"),
        (b'{"prompt": "secret", "temperature": 1}', "the field temperature"),
        (b'{"prompt": "secret", "params": []}', "params: not a JSON object"),
        (b'{"prompt": "secret", "params": {"api_key": "secret"}}', "keys live with the workers"),
        (b'{"prompt": "secret", "params": {"n": 2}}', "n: one answer"),
        (b'{"prompt": "secret", "model": 1}', "model: not a text"),
        (b'{"prompt": "secret", "custom_id": true}', "custom_id"),
        (b'{"prompt": "secret", "custom_id": ""}', "custom_id"),
        (b'{"prompt": "secret", "custom_id": "a\\nb"}', "custom_id"),
        (batch_row(stream=True).encode(), "stream"),
        (batch_row().replace("chat/completions", "embeddings").encode(), "something else than POST"),
        (batch_row().replace("POST", "GET").encode(), "something else than POST"),
        (b'{"custom_id": "a", "body": []}', "body: not a JSON object"),
        (b'{"custom_id": "a", "body": {}, "prompt": "secret"}', "the field prompt"),
    ],
)
def test_a_row_that_cannot_be_sent_is_told_by_its_line(row: bytes, told: str):
    """The reason stands behind the line's number, and quotes nothing of the row."""
    error = refused(b'\n{"custom_id": "first", "prompt": "fine"}\n' + row + b"\n")
    assert error.count == 1
    assert error.log_lines[0].startswith("line 3: ")
    assert told in error.log_lines[0]
    assert "secret" not in str(error)


def test_a_row_that_lacks_a_field_of_the_template_is_told():
    """The field by its name; one that has a default may be missing."""
    options = template("{{ text }}{{ more | default('') }}", "text", "more")
    error = refused('{"text": "a"}\n{"texte": "secret"}\n', options)
    assert error.log_lines == ["line 2: lacks more, text, which the template uses"]


def test_a_name_that_two_rows_have_is_told_with_both_lines():
    """A line's number is a name, too, where another row has none."""
    error = refused(
        '{"custom_id": "a", "prompt": "x"}\n{"prompt": "y"}\n{"id": 2, "prompt": "z"}\n{"id": "a", "prompt": "x"}'
    )
    assert error.log_lines == ["line 3: has the custom_id of line 2", "line 4: has the custom_id of line 1"]


def test_a_file_has_one_form():
    """A row of another form than those before it is a slip."""
    assert "another form" in refused(batch_row() + '\n{"prompt": "hi"}').log_lines[0]


def test_all_rows_are_looked_at_before_any_is_refused():
    """The first ten problems are told, and how many there are; behind the first one no item is given."""
    rows = reader('{"prompt": "a"}\n' + "{\n" * 25 + '{"prompt": "b"}\n')
    given: list[str] = []
    with pytest.raises(RowsInvalid) as caught:
        given.extend(item.custom_id for item in rows)
    assert (given, caught.value.count) == (["1"], 25)
    assert [line.partition(":")[0] for line in caught.value.log_lines] == [
        *(f"line {n}" for n in range(2, 12)),
        "and 15 more",
    ]


def test_invalid_rows_can_be_left_out():
    """They are counted. A name that only an invalid row had is free."""
    rows = reader('{"id": "a"}\n{"id": "a", "prompt": "x"}\n{\n', skip_invalid=True)
    assert [item.custom_id for item in rows] == ["a"]
    assert (rows.given, rows.invalid, len(rows.problems)) == (1, 2, 2)


def test_rows_that_have_an_answer_are_left_out():
    """They are checked, and counted."""
    rows = reader('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y"}', is_answered={"a"}.__contains__)
    assert [item.custom_id for item in rows] == ["b"]
    assert (rows.given, rows.answered) == (1, 1)


def test_the_form_is_known_once_a_row_was_read():
    """And no row is lost by that."""
    rows = reader(batch_row("a") + "\n" + batch_row("b"))
    assert rows.format is None
    assert rows.begin()
    assert rows.format == "batch"
    assert [item.custom_id for item in rows] == ["a", "b"]
    assert not reader("\n").begin()


def test_a_long_file_takes_no_memory():
    """20,000 rows with names of their own pass through two megabytes, where they have five."""
    row = json.dumps({"prompt": "x" * 200, "custom_id": "name-%07d"})
    many = io.BytesIO()
    for number in range(20_000):
        many.write((row % number).encode() + b"\n")
    many.seek(0)
    rows = RowReader(many, "rows.jsonl", OPTIONS)
    tracemalloc.start()
    for _ in rows:
        pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.given == 20_000
    assert peak_bytes < 2_000_000
