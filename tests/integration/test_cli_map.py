"""`kagura-tasks map`: rows of a file to workers, and answers to another file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kagura_tasks.settings import Settings
from tests.integration.test_cli import Done, document, kagura, program, the_error
from tests.support.llm import LlmServer
from tests.support.workers import Worker

Json = dict[str, Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The rows' file."""
    return tmp_path / "in.jsonl"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The answers' file."""
    return tmp_path / "out.jsonl"


@pytest.fixture
def map_file(source: Path, output: Path, settings: Settings) -> Callable[..., Done]:
    """Runs the command on both files, in this process, for this test's tenant."""

    def run(*options: str, **how: Any) -> Done:
        files = [str(source), str(output)]
        return kagura("map", *files, "--tenant", settings.tenant, *options, redis_url=settings.redis_url, **how)

    return run


def write_prompts(path: Path, *prompts: str) -> None:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def answers(path: Path) -> dict[str, Json]:
    """The rows of a file of answers by their `custom_id`, each of which is there once."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def the_resume_command(stderr: str) -> list[str]:
    """What the program said to type."""
    told = re.search(r"To go on: kagura-tasks (map resume .*)", stderr)
    assert told, stderr
    return told[1].split()


def test_each_row_gets_its_answer(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """The template is filled with a row's fields, and the answer is found by the row's name, or its line."""
    source.write_text('{"text": "Hallo", "id": "greeting"}\n{"text": "Tag"}\n')
    llm.reply("Hello.")
    done = map_file("--template", "Translate: {{ text }}", "--system", "Be brief.", "--param", "temperature=0.5")
    assert done.returncode == 0, done.stderr
    found = answers(output)
    assert found.keys() == {"greeting", "2"}
    assert (found["2"]["text"], found["2"]["finish_reason"], found["2"]["attempts"]) == ("Hello.", "stop", 1)
    bodies = [seen.body for seen in llm.requests()]
    assert {body["messages"][1]["content"] for body in bodies} == {"Translate: Hallo", "Translate: Tag"}
    assert {(body["messages"][0]["content"], body["temperature"]) for body in bodies} == {("Be brief.", 0.5)}


def test_a_machine_reads_one_document(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """What is in the output, and what it cost; rows that are equal cost one call."""
    write_prompts(source, "the same", "the same", "another")
    told = document(map_file("--json"))
    assert (told["answered"], told["failed"], told["cached"]) == (3, 0, 1)
    assert told["output"] == str(output)
    assert told["cost_usd"] > 0
    assert llm.count() == 2


def test_a_batch_is_answered_in_its_own_form(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """OpenAI's Batch format in, OpenAI's Batch format out; what is refused is a response with the provider's status."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    row = {"method": "POST", "url": "/v1/chat/completions"}
    refused = {**body, "model": "openai/gpt-refused"}
    rows = [{"custom_id": "a", **row, "body": body}, {"custom_id": "b", **row, "body": refused}]
    source.write_text("\n".join(map(json.dumps, rows)))
    llm.fail(401, model="gpt-refused", times=None)
    llm.reply("Hello.", model="gpt-4o-mini")
    done = map_file()
    assert done.returncode == 3, done.stderr
    found = answers(output)
    assert found["a"]["response"]["body"]["choices"][0]["message"]["content"] == "Hello."
    assert (found["a"]["response"]["status_code"], found["a"]["error"]) == (200, None)
    assert found["b"]["response"]["status_code"] == 401
    assert found["b"]["response"]["body"]["error"]["code"] == "authentication_failed"


def test_rows_come_from_standard_input(worker: Worker, llm: LlmServer, output: Path, settings: Settings):
    """For a dash."""
    done = kagura(
        *("map", "-", str(output), "--tenant", settings.tenant), stdin='{"prompt": "x"}\n', redis_url=settings.redis_url
    )
    assert done.returncode == 0, done.stderr
    assert answers(output).keys() == {"1"}


def test_failed_rows_are_told_and_tried_again(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done], settings: Settings
):
    """Each has its error in its place, and the exit code is 3; the command that is printed tries them again."""
    write_prompts(source, "one", "two", "three")
    llm.fail(401, times=1)
    done = map_file("--max-in-flight", "1")
    assert done.returncode == 3, done.stderr
    found = answers(output)
    assert [row["custom_id"] for row in found.values() if "error" in row] == ["1"]
    assert found["1"]["error"]["type"] == "AuthenticationFailed"
    told = re.search(r"try the failed rows again: kagura-tasks (.*)", done.stderr)
    assert told, done.stderr
    again = kagura(*told[1].split(), redis_url=settings.redis_url)
    assert again.returncode == 0, again.stderr
    assert all("text" in row for row in answers(output).values())
    assert llm.count() == 4


def test_too_many_failures_stop_it(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """With --on-error fail no further row is started; what ended is in the output."""
    write_prompts(source, *map(str, range(20)))
    llm.fail(401, times=None)
    done = map_file("--max-in-flight", "2", "--on-error", "fail")
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert the_resume_command(done.stderr)[:2] == ["map", "resume"]
    assert 0 < llm.count() <= 4
    assert 0 < len(answers(output)) <= 4


def test_a_budget_stops_it(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done], settings: Settings
):
    """Before a call that may cost more than what is left; the printed command goes on with a larger one."""
    write_prompts(source, *map(str, range(10)))
    done = map_file("--max-in-flight", "1", "--param", "max_tokens=1000", "--budget", "0.00062")
    assert done.returncode == 1
    told = the_resume_command(done.stderr)
    assert told[-2:] == ["--budget", "USD"]
    assert 0 < llm.count() == len(answers(output)) < 10
    again = kagura(*told[:-1], "1", redis_url=settings.redis_url)
    assert again.returncode == 0, again.stderr
    assert len(answers(output)) == llm.count() == 10


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('{"prompt": "a"}\n{', "line 2: is not JSON"),
        ('{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "line 2: has the custom_id of line 1"),
        ('{"prompt": "a"}\n{"text": "b"}', "line 2: has the field text"),
    ],
)
def test_invalid_rows_are_told_before_anything_is_paid_for(
    rows: str, told: str, worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """Exit code 1, the line's number and the reason; no call was made, and no file is left."""
    source.write_text(rows)
    done = map_file()
    assert done.returncode == 1
    assert told in done.stderr
    assert "--skip-invalid" in done.stderr
    assert not output.exists()
    assert llm.count() == 0


def test_invalid_rows_can_be_left_out(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """The others are answered, and how many were not sent is said."""
    source.write_text('{\n{"prompt": "a"}\n[]\n')
    done = map_file("--skip-invalid")
    assert done.returncode == 0, done.stderr
    assert answers(output).keys() == {"2"}
    assert "line 1: is not JSON" in done.stderr
    assert "2 invalid rows were left out" in done.stderr


def test_an_output_that_exists_is_refused(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """Unless it is to be resumed, or replaced; nothing is paid for before that is said."""
    write_prompts(source, "a")
    output.write_text('{"custom_id": "old", "text": "old"}\n')
    assert "--overwrite" in the_error(map_file())
    assert llm.count() == 0
    assert map_file("--overwrite").returncode == 0
    assert answers(output).keys() == {"1"}


def test_the_rows_are_never_written_over(source: Path, settings: Settings):
    """The same file cannot be both."""
    write_prompts(source, "a")
    done = kagura("map", str(source), str(source), "--overwrite", redis_url=settings.redis_url)
    assert "same file" in the_error(done)
    assert source.read_text() == '{"prompt": "a"}\n'


def test_only_what_the_output_lacks_is_sent(
    worker: Worker, llm: LlmServer, source: Path, output: Path, map_file: Callable[..., Done]
):
    """With --resume and nothing else to go by; when all is there, nothing is."""
    write_prompts(source, "a", "b", "c")
    output.write_text('{"custom_id": "2", "text": "old"}\n{"custom_id": "3", "te')
    assert map_file("--resume").returncode == 0
    assert answers(output).keys() == {"1", "2", "3"}
    assert {seen.prompt for seen in llm.requests()} == {"a", "c"}
    told = document(map_file("--resume", "--json"))
    assert (told["answered_before"], told["answered"], told["id"]) == (3, 3, None)
    assert llm.count() == 2


def test_a_dry_run_tells_the_price(source: Path, output: Path):
    """For each model, from empty answers to the longest; an unknown price is said to be. Nothing is sent or written."""
    source.write_text(
        '{"prompt": "hello world", "params": {"max_tokens": 1000}}\n'
        '{"prompt": "hello world", "model": "openai/gpt-4o-mini"}\n'
        '{"prompt": "x", "model": "openai/gpt-nobody-knows"}\n{\n'
    )
    command = ["map", str(source), str(output), "--dry-run"]
    told = document(program(*command, "--skip-invalid", "--json"))
    assert (told["rows"], told["invalid"], told["low_usd"]) == (3, 1, None)
    known, unknown = told["models"]
    assert (known["model"], known["calls"]) == ("openai/gpt-4o-mini", 2)
    assert 4 <= known["prompt_tokens"] <= 30
    assert known["low_usd"] == pytest.approx(known["prompt_tokens"] * 0.15e-6)
    assert known["high_usd"] == pytest.approx(known["low_usd"] + (1000 + 16384) * 0.6e-6)
    assert (unknown["low_usd"], unknown["high_usd"]) == (None, None)
    refused = program(*command)
    assert refused.returncode == 1
    assert "unknown price" in refused.stdout
    assert "line 4: is not JSON" in refused.stderr
    assert not output.exists()


def test_a_dry_run_says_that_nobody_knows_prices(source: Path, output: Path, tmp_path: Path):
    """A LiteLLM that cannot be loaded is one line, also where many rows are on their way to it."""
    write_prompts(source, *(f"{number} {'x' * 100}" for number in range(2000)))
    broken = tmp_path / "litellm"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError")
    done = program("map", str(source), str(output), "--dry-run", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: LiteLLM could not be asked for prices: reinstall litellm"


def test_a_dry_run_counts_what_it_can(source: Path, output: Path):
    """Where LiteLLM is not installed, as on an application's machine (and in this process): the calls alone."""
    write_prompts(source, "a", "b")
    output.write_text('{"custom_id": "1", "text": "old"}\n')
    told = document(kagura("map", str(source), str(output), "--dry-run", "--resume", "--json"))
    assert (told["rows"], told["answered_before"], told["prompt_tokens"]) == (1, 1, None)
    assert "not counted" in kagura("map", str(source), str(output), "--dry-run", "--overwrite").stdout
