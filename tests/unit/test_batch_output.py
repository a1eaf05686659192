"""Files of answers: what is written, and what is left of it whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.batch_files.answers import answer_row, is_failure
from kagura_tasks.batch_files.output import Existing, OutputFile
from kagura_tasks.batch_files.rows import RowFormat
from kagura_tasks.errors import (
    InvalidRequest,
    KaguraTasksError,
    OutputUnwritable,
    ProviderTimeout,
    RateLimited,
    TaskLost,
)
from kagura_tasks.groups import MapOutcome
from kagura_tasks.schemas import Completion, Usage

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


def test_a_link_to_a_file_stays_one(tmp_path: Path):
    """What is put in its file's place is put there."""
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    write(path, "refuse", [outcome("a", fails=True)])
    link.symlink_to(path)
    write(link, "retry", [outcome("b")])
    assert link.is_symlink()
    assert names_in(path) == ["b"]


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
