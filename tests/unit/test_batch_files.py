"""Files of rows: what is read, what is refused with its line number, and what is written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.batch_files.answers import answer_row, is_failure
from kagura_tasks.batch_files.output import Existing, OutputFile
from kagura_tasks.batch_files.reader import RowReader
from kagura_tasks.batch_files.rows import RowFormat, RowOptions
from kagura_tasks.errors import (
    InvalidRequest,
    KaguraTasksError,
    OutputUnwritable,
    ProviderTimeout,
    RateLimited,
    RowsInvalid,
    TaskLost,
)
from kagura_tasks.groups import MapItem, MapOutcome
from kagura_tasks.prompts import PromptTemplate
from kagura_tasks.schemas import Completion, CompletionRequest, Usage
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
    """100,000 rows with names of their own pass through two megabytes."""
    row = json.dumps({"prompt": "x" * 200, "custom_id": "name-%07d"})
    many = io.BytesIO()
    for number in range(100_000):
        many.write((row % number).encode() + b"\n")
    many.seek(0)
    rows = RowReader(many, "rows.jsonl", OPTIONS)
    tracemalloc.start()
    for _ in rows:
        pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.given == 100_000
    assert peak_bytes < 2_000_000


ANSWER = Completion(
    text="hello ß",
    model="openai/gpt-4o-mini",
    finish_reason="stop",
    usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5, cost_usd=0.25),
)
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_row_of_answers_says_all_that_is_known():
    """The completion's fields beside the name; calls of tools only where there are any."""
    assert answer_row(MapOutcome(0, "a", completion=ANSWER), "m", "rows") == {
        "custom_id": "a",
        "text": "hello ß",
        "model": "openai/gpt-4o-mini",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost_usd": 0.25},
        "cached": False,
        "attempts": 1,
    }
    calling = ANSWER.model_copy(update={"tool_calls": (CALL,)})
    assert answer_row(MapOutcome(0, "a", completion=calling), "m", "rows")["tool_calls"] == [CALL]


def test_a_row_of_answers_says_why_there_is_none():
    """The error's class and text."""
    row = answer_row(MapOutcome(0, "a", error=TaskLost("t")), "m", "rows")
    assert row == {"custom_id": "a", "error": {"type": "TaskLost", "message": str(TaskLost("t"))}}


def test_a_batch_is_answered_as_openai_does():
    """The whole chat completion, as a response with status 200."""
    calling = ANSWER.model_copy(update={"text": "", "finish_reason": "tool_calls", "tool_calls": (CALL,)})
    row: Any = answer_row(MapOutcome(4, "a", completion=calling), "m", "batch")
    assert row.keys() == {"id", "custom_id", "response", "error"}
    assert (row["custom_id"], row["error"]) == ("a", None)
    assert (row["response"]["status_code"], row["response"]["request_id"]) == (200, "m.4")
    body = row["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "openai/gpt-4o-mini")
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    [choice] = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RateLimited("too many", "m", 429, 1.0), 429, "rate_limited"),
        (ProviderTimeout("late", "m"), None, "request_timeout"),
        (TaskLost("t"), None, "task_lost"),
    ],
)
def test_a_batch_fails_as_openais_does(error: KaguraTasksError, status: int | None, code: str):
    """What the provider refused is a response with its status; what had no answer is an error."""
    row: Any = answer_row(MapOutcome(0, "a", error=error), "m", "batch")
    told = row["response"]["body"]["error"] if status else row["error"]
    assert (told["code"], told["message"]) == (code, str(error))
    if status:
        assert (row["response"]["status_code"], row["error"]) == (status, None)
    else:
        assert row["response"] is None
    assert is_failure(row)


def outcome(name: str, *, fails: bool = False) -> MapOutcome:
    return MapOutcome(0, name, error=TaskLost(name)) if fails else MapOutcome(0, name, completion=ANSWER)


def write(path: Path, existing: Existing, outcomes: list[MapOutcome], form: RowFormat = "rows") -> list[bool]:
    """Write them all; which of them were written."""
    output = OutputFile(path, existing)
    try:
        return [output.write(one.custom_id, answer_row(one, "m", form)) for one in outcomes]
    finally:
        output.close()


def names_in(path: Path) -> list[str]:
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line)["custom_id"] for line in text.splitlines()]


_names = st.text('abcdé"\\', min_size=1, max_size=3)


@given(
    done=st.lists(st.tuples(_names, st.booleans()), unique_by=lambda one: one[0], max_size=6),
    form=st.sampled_from(["rows", "batch"]),
    data=st.data(),
)
def test_a_file_that_was_cut_anywhere_is_completed(
    done: list[tuple[str, bool]], form: RowFormat, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    """However much of the file a kill left, the same rows are in it in the end, each once."""
    path = tmp_path_factory.mktemp("cut") / "out.jsonl"
    outcomes = [outcome(name, fails=fails) for name, fails in done]
    write(path, "refuse", outcomes, form)
    whole = path.read_bytes() if path.exists() else b""
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    write(path, "resume", data.draw(st.permutations(outcomes)), form)
    assert sorted(names_in(path) if path.exists() else []) == sorted(name for name, _ in done)


def test_a_row_that_is_there_is_not_written_again(tmp_path: Path):
    """Neither after a resume nor in the same run."""
    path = tmp_path / "out.jsonl"
    assert write(path, "refuse", [outcome("a"), outcome("a")]) == [True, False]
    assert write(path, "resume", [outcome("a"), outcome("b")]) == [False, True]
    assert names_in(path) == ["a", "b"]


def test_failed_rows_are_kept_unless_they_are_tried_again(tmp_path: Path):
    """To try again, they are taken out; the file has the same owner's mode, and nothing is left beside it."""
    path = tmp_path / "out.jsonl"
    write(path, "refuse", [outcome("a", fails=True), outcome("b"), outcome("c", fails=True)])
    path.chmod(0o640)
    assert write(path, "resume", [outcome("a")]) == [False]
    assert write(path, "retry", [outcome("a"), outcome("b")]) == [True, False]
    assert names_in(path) == ["b", "a"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_knows_what_is_in_it(tmp_path: Path):
    """How many rows have an answer, how many failed, and in which form they are."""
    path = tmp_path / "out.jsonl"
    write(path, "refuse", [outcome("a", fails=True), outcome("b"), outcome("c")], "batch")
    output = OutputFile(path, "resume")
    assert (output.answered, output.failed, output.format) == (2, 1, "batch")
    assert "b" in output
    assert "d" not in output
    output.close()


def test_a_file_that_exists_is_not_touched(tmp_path: Path):
    """It is refused with both ways on; an empty one has nothing to lose."""
    path = tmp_path / "out.jsonl"
    path.write_text("mine")
    with pytest.raises(InvalidRequest, match=r"--resume .* --overwrite"):
        OutputFile(path)
    assert path.read_text() == "mine"
    path.write_text("")
    assert write(path, "refuse", [outcome("a")]) == [True]


def test_a_file_that_is_overwritten_is_kept_until_then(tmp_path: Path):
    """What is refused before the first row was sent costs nobody an old file."""
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    output = OutputFile(path, "overwrite")
    assert path.read_text() == "old\n"
    output.clear()
    output.write("a", {"custom_id": "a"})
    output.close()
    assert names_in(path) == ["a"]


@pytest.mark.parametrize("text", ['{"custom_id": "a"}\nno row\n', '{"name": "a"}\n', '{"custom_id": "a"}\n' * 2])
def test_what_is_no_file_of_answers_is_not_resumed(tmp_path: Path, text: str):
    """Nor is it cut off."""
    path = tmp_path / "out.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match="cannot be resumed"):
        OutputFile(path, "resume")
    assert path.read_text() == text


def test_one_process_writes_a_file(tmp_path: Path):
    """A second one is refused while the first is at it."""
    path = tmp_path / "out.jsonl"
    output = OutputFile(path)
    with pytest.raises(OutputUnwritable, match="another process"):
        OutputFile(path, "resume")
    output.close()


def test_a_file_that_was_created_in_vain_is_removed(tmp_path: Path):
    """Nobody has to delete it before the next try."""
    path = tmp_path / "out.jsonl"
    OutputFile(path).close()
    assert not path.exists()


@pytest.mark.parametrize(
    "path_in", [lambda folder: folder, lambda folder: folder / "no" / "out.jsonl"], ids=["folder", "no-folder"]
)
def test_what_cannot_be_opened_is_told(tmp_path: Path, path_in: Callable[[Path], Path]):
    """With the file and the system's reason."""
    with pytest.raises(OutputUnwritable, match=str(path_in(tmp_path))):
        OutputFile(path_in(tmp_path))


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    """The row that did not fit is cut off, the error is ours, and a resume with room completes the file."""
    path = tmp_path / "out.jsonl"
    program = """
import resource, sys
from pathlib import Path
from kagura_tasks.batch_files.output import OutputFile
from kagura_tasks.errors import OutputUnwritable
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
output = OutputFile(Path(sys.argv[1]))
try:
    for number in range(100):
        output.write(str(number), {"custom_id": str(number), "text": "x" * 50})
except OutputUnwritable as error:
    print(error)
output.close()
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write {path}: File too large\n"
    written = names_in(path)
    assert 0 < len(written) < 100
    assert path.stat().st_size <= 1000
    write(path, "resume", [outcome(str(number)) for number in range(100)])
    assert names_in(path) == [str(number) for number in range(100)]


def test_half_a_character_can_be_written(tmp_path: Path):
    """JSON can hold half of a surrogate pair, which has no bytes: it is written as its escape."""
    path = tmp_path / "out.jsonl"
    broken = MapOutcome(0, "a", completion=ANSWER.model_copy(update={"text": "ß\ud800"}))
    write(path, "refuse", [broken])
    assert json.loads(path.read_bytes())["text"] == "ß\ud800"
