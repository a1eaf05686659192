"""The command line without a server: what it says about itself, and what it decides by itself."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kagura_tasks.cli.app import app
from kagura_tasks.cli.checks import deliveries, model, redis_server
from kagura_tasks.cli.checks.environment import provider_keys
from kagura_tasks.cli.demo import report, scripted_model
from kagura_tasks.cli.demo.model import hosted_model
from kagura_tasks.cli.demo.prompts import FIRST, MANY
from kagura_tasks.cli.demo.rounds import Round
from kagura_tasks.cli.options import ProfileName
from kagura_tasks.cli.processes import restart_delay_s
from kagura_tasks.cli.reference import markdown
from kagura_tasks.cli.screen import Screen, printable
from kagura_tasks.cli.worker_processes import hostname_in, numbered
from kagura_tasks.schemas import Completion, Usage
from kagura_tasks.settings import RedisUrl
from workers.profiles import PROFILES

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *("demo", "up", "worker", "run", "cache", "cache stats", "cache invalidate"),
    *("map", "map resume", "map status", "map pause", "map cancel", "files"),
    *("dead", "dead list", "dead show", "dead retry", "dead drop", "doctor", "version"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str):
    """`--help` shows the words that call the command, and its options."""
    shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="kagura-tasks", env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert f"kagura-tasks {command}" in shown.output
    assert "--help" in shown.output


def test_help_loads_no_heavy_library():
    """Help, and completion at every Tab, wait for nobody: no LiteLLM, no Flower, no Celery, no Redis."""
    code = (
        "import sys; from typer.testing import CliRunner; from kagura_tasks.cli.app import app;"
        "assert all(CliRunner().invoke(app, [word, '--help']).exit_code == 0 for word in ('run', 'map', 'files'));"
        "print({'litellm', 'flower', 'celery', 'redis'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_reference_is_up_to_date():
    """docs/reference/cli.md is what `python -m kagura_tasks.cli.reference` writes."""
    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == markdown()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "hi", "--param", "temperature"],
        ["run", "hi", "--param", "stop=END"],
        ["run", "hi", "--param", "model=1"],
        ["run", "hi", "--timeout", "0"],
        ["worker", "--profile", "huge"],
        ["worker", "--processes", "0"],
        ["up", "--workers", "0"],
        ["demo", "--model", "openai/gpt-4o-mini", "--scripted"],
        ["dead", "list", "--limit", "0"],
        ["dead", "show"],
        ["map"],
        ["map", "in.jsonl"],
        ["map", "resume"],
        ["map", "in.jsonl", "out.jsonl", "--resume", "--overwrite"],
        ["map", "in.jsonl", "out.jsonl", "--retry-failed"],
        ["map", "in.jsonl", "out.jsonl", "--on-error", "never"],
        ["map", "in.jsonl", "out.jsonl", "--param", "temperature"],
        ["map", "in.jsonl", "out.jsonl", "--max-in-flight", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]):
    """What cannot be meant is refused before anything is started."""
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "Error" in refused.output


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "celery-2@%h"),
        (["--hostname=night@%h"], "night-2@%h"),
        (["--hostname", "night@here"], "night-2@here"),
        (["-n", "night@%h", "-E"], "night-2@%h"),
        (["-nnight@%h"], "night-2@%h"),
        (["--hostname=here"], "celery-2@here"),
        (["-n", "one@%h", "--hostname=two@%h"], "two-2@%h"),
    ],
)
def test_one_of_several_workers_has_a_name_of_its_own(arguments: list[str], name: str):
    """The given name with a number; what is left out is as in Celery."""
    assert numbered(hostname_in(arguments), 2) == name


def test_a_group_of_commands_has_one_without_a_word():
    """What begins with none of the words is a file, or an option; a file of that name is called by its folder."""
    shown = CliRunner().invoke(app, ["map", "--help"], prog_name="kagura-tasks", env={"COLUMNS": "120"})
    assert "kagura-tasks map [OPTIONS]" in shown.output
    assert "map resume ID" in shown.output
    for arguments in (["./resume"], ["IN OUT"], ["--template", "{{ x }}", "in.jsonl"]):
        refused = CliRunner().invoke(app, ["map", *arguments])
        assert "OUT.jsonl" in refused.output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["map", ""], {"resume", "status", "pause", "cancel"}),
        (["map", "re"], {"resume"}),
        (["map", "--dr"], {"--dry-run"}),
        (["map", "in.jsonl", "out.jsonl", "--over"], {"--overwrite"}),
        (["map", "resume", "--retry"], {"--retry-failed"}),
    ],
)
def test_the_shell_completes_words_and_options_of_a_map(typed: list[str], offered: set[str]):
    """In both of its forms; a file's name is left to the shell."""
    completing = {
        "_KAGURA_TASKS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["kagura-tasks", *typed]),
        "COMP_CWORD": str(len(typed)),
    }
    program = "from kagura_tasks.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **completing}, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == offered


def test_profiles_are_those_of_the_workers():
    """The names that help shows are the table's."""
    assert set(ProfileName) == set(PROFILES)


def test_a_text_cannot_steer_the_terminal():
    """Escape sequences in an answer are made visible; line breaks, tabs and letters stay."""
    assert printable("a\n\tß\x1b[2Jb\r\x07") == "a\n\tß\ufffd[2Jb\ufffd\ufffd"


def test_half_a_character_can_be_printed(capsys: pytest.CaptureFixture[str]):
    """JSON can hold half of a surrogate pair, which has no bytes: a machine gets it as it is, a person a mark."""
    assert printable("a\ud800") == "a\ufffd"
    Screen(as_json=True).document({"text": "ß\ud800"})
    assert json.loads(capsys.readouterr().out) == {"text": "ß\ud800"}


def test_colours_are_for_terminals_that_want_them():
    """A terminal gets colours; NO_COLOR and pipes do not."""
    assert "\x1b[" in help_in_a_terminal({})
    assert "\x1b[3" not in help_in_a_terminal({"NO_COLOR": "1"})
    piped = subprocess.run([sys.executable, "-m", "kagura_tasks.cli", "--help"], capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout


def help_in_a_terminal(environment: dict[str, str]) -> str:
    """What a terminal is sent by `kagura-tasks --help`."""
    ours, theirs = pty.openpty()
    env = {**{name: value for name, value in os.environ.items() if name != "NO_COLOR"}, "TERM": "xterm", **environment}
    with subprocess.Popen([sys.executable, "-m", "kagura_tasks.cli", "--help"], stdout=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while some := os.read(ours, 4096):
                shown += some
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_what_dies_again_and_again_is_started_less_often():
    """The wait doubles from one second to half a minute."""
    assert [restart_delay_s(deaths) for deaths in (0, 1, 2, 5, 1000)] == [1, 2, 4, 30, 30]


def test_every_scripted_answer_is_marked():
    """Nobody takes a canned answer for a model's; equal prompts have equal answers, other prompts others."""
    answers = [scripted_model.answer(ask.prompt) for ask in [FIRST, *MANY]]
    assert all(answer.startswith("DEMO") for answer in answers)
    assert len(set(answers)) == len(answers)
    assert scripted_model.answer(FIRST.prompt) == answers[0]


def test_the_demo_asks_twenty_different_things():
    """None of the prompts is answered by another's answer."""
    assert len({ask.prompt for ask in [FIRST, *MANY]}) == 21


def test_keys_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch):
    """Variables that providers read; no empty one, no other."""
    monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": "x", "GROQ_API_KEY": "", "PATH": "/bin", "AWS_REGION": "y"})
    assert provider_keys() == ["OPENAI_API_KEY"]


@pytest.mark.parametrize(
    ("info", "levels"),
    [
        ({"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 1}, ["ok", "ok"]),
        ({"redis_version": "6.2.14", "maxmemory_policy": "noeviction"}, ["error", "ok"]),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, ["ok", "ok"]),
        ({"redis_version": "7.2.4", "aof_enabled": 0}, ["ok", "warning"]),
        (
            {"redis_version": "10.0.0", "maxmemory_policy": "allkeys-lru", "aof_enabled": 0},
            ["ok", "warning", "warning"],
        ),
    ],
)
def test_a_server_is_judged_by_what_it_says(info: dict[str, Any], levels: list[str]):
    """Version 7.0 or later; what makes a broker unfit is a warning, as at a worker's start."""
    found = list(redis_server.judge(RedisUrl("redis://localhost"), info, ["broker"]))
    assert [check.level for check in found] == levels


def test_a_cache_may_evict():
    """Eviction is for remembered answers alone: without queues and results it is no fault."""
    info = {"redis_version": "7.2.0", "maxmemory_policy": "allkeys-lru", "aof_enabled": 0}
    levels = [check.level for check in redis_server.judge(RedisUrl("redis://localhost"), info, ["cache"])]
    assert levels == ["ok", "ok"]


def test_the_fleets_counters_are_told_in_words():
    """What happened at all, with its number."""
    told = deliveries.judge({"redelivered": 1200, "buried": 0, "handed_back": 3})
    assert (told.level, told.message) == ("ok", "handed back 3, redelivered 1,200")
    assert deliveries.judge({}).message == "every delivery went the usual way"


@pytest.mark.parametrize(
    ("provider", "missing", "level", "told"),
    [
        ("openai", [], "ok", "its key is in this environment"),
        ("openai", ["OPENAI_API_KEY"], "warning", "the workers' environment needs OPENAI_API_KEY"),
        ("", [], "error", "KAGURA_TASKS_DEFAULT_MODEL"),
    ],
)
def test_a_model_is_judged_by_what_litellm_knows(provider: str, missing: list[str], level: str, told: str):
    """An unknown one is an error; a key that perhaps only the workers have is not."""
    found = model.judge("some/model", {"provider": provider, "missing_keys": missing})
    assert found.level == level
    assert told in f"{found.message} {found.mend}"


def test_a_machine_reads_one_document_about_the_demo(capsys: pytest.CaptureFixture[str]):
    """Rounds with their sums, and every answer; nothing else is on standard output."""
    answer = Completion(text="DEMO", model="m", finish_reason="stop", usage=Usage(completion_tokens=3, total_tokens=10))
    rounds = [Round("first", [FIRST], [answer], 0.5), Round("again", [FIRST], [answer.as_cached()], 0.001)]
    report.total(Screen(as_json=True), rounds, hosted_model("m"), "http://127.0.0.1:5555")
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["flower_url"]) == ("m", "http://127.0.0.1:5555")
    assert [(one["name"], one["calls"], one["hits"], one["tokens"]) for one in told["rounds"]] == [
        ("first", 1, 0, 10),
        ("again", 0, 1, 0),
        ("all", 1, 1, 10),
    ]
    assert told["rounds"][0]["tokens_per_s"] == 6.0
    assert [one["cached"] for one in told["answers"]] == [False, True]
