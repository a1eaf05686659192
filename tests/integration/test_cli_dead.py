"""`kagura-tasks dead`: looking at dead letters, sending them again, dropping them. Prompts are shown on demand only."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import UTC, datetime

import pytest
import redis

from kagura_tasks.app import create_app
from kagura_tasks.client import LLMClient
from kagura_tasks.dead_letters import DEATHS_HEADER
from kagura_tasks.delivery_keys import DEAD
from kagura_tasks.errors import TaskPoisoned
from kagura_tasks.settings import Settings
from tests.integration.test_cli import PROGRAM, document, free_port, kagura, the_error
from tests.support.dead_letters import bury, kombu_message
from tests.support.wait import until
from tests.support.workers import Fleet

PROMPT = "my darkest secret"
GARBAGE = b"\x1b[2J\xff not \x00 a message" * 20


@pytest.fixture
def buried(client_of_redis: redis.Redis) -> list[str]:
    """The ids of two tasks and of what is no message, oldest first."""
    ids = [
        bury(client_of_redis, kombu_message(PROMPT, "task-one"), letter_id="aaaa1111aaaa"),
        bury(client_of_redis, kombu_message(PROMPT, "task-two"), letter_id="aaaa2222aaaa", queue="llm\x06\x163"),
        bury(client_of_redis, GARBAGE, letter_id="bbbb3333bbbb"),
    ]
    for position, one in enumerate(ids):
        client_of_redis.zincrby(DEAD, position * 10, one)
    return ids


def ids_left(client_of_redis: redis.Redis) -> list[str]:
    return [one.decode() for one in client_of_redis.zrange(DEAD, 0, -1)]


def test_nothing_is_dead(redis_url: str):
    """An empty list says so, to people and to machines; dropping or sending all of nothing asks nobody."""
    assert kagura("dead", "list", redis_url=redis_url).stdout == "no dead letters\n"
    assert document(kagura("dead", "list", "--json", redis_url=redis_url)) == {"count": 0, "dead_letters": []}
    assert kagura("dead", "drop", "--all", redis_url=redis_url).stdout == "0 dead letters dropped\n"
    assert kagura("dead", "retry", "--all", redis_url=redis_url).stdout == "0 dead letters sent again\n"


def test_the_newest_is_the_first_in_the_list(buried: list[str], redis_url: str):
    """A line for each in a pipe, with whole task ids: `grep` finds them."""
    lines = kagura("dead", "list", redis_url=redis_url).stdout.splitlines()
    assert lines[0].split() == ["id", "when", "task", "task", "id", "queue", "deaths", "reason", "size"]
    assert [line.split()[0] for line in lines[1:]] == ["bbbb3333", "aaaa2222", "aaaa1111"]
    assert "kagura.complete  task-two  llm (priority 3)       3  its worker died 3 times" in lines[2]
    assert "it is no message" in lines[1]


def test_a_machine_reads_all_fields(buried: list[str], redis_url: str):
    """Ids, times in UTC, queues as Redis names them."""
    found = document(kagura("dead", "list", "--json", "--limit", "2", redis_url=redis_url))
    assert found["count"] == 3
    assert [letter["id"] for letter in found["dead_letters"]] == buried[:0:-1]
    letter = found["dead_letters"][1]
    assert (letter["task"], letter["task_id"], letter["deaths"]) == ("kagura.complete", "task-two", 3)
    assert letter["queue"] == "llm\x06\x163"
    assert letter["size_bytes"] == len(kombu_message(PROMPT, "task-two"))
    assert abs((datetime.now(UTC) - datetime.fromisoformat(letter["buried_at"])).total_seconds()) < 60


def test_a_cut_list_says_so(buried: list[str], redis_url: str):
    """On standard error: the list itself has only letters."""
    done = kagura("dead", "list", "--limit", "1", redis_url=redis_url)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "the newest 1 of 3: --limit shows more\n"


def test_ids_are_shortened_as_far_as_they_differ(client_of_redis: redis.Redis, redis_url: str):
    """What the list shows is enough to name a letter."""
    for letter_id in ("samesamesame1", "samesamesame2"):
        bury(client_of_redis, kombu_message(), letter_id=letter_id)
    lines = kagura("dead", "list", redis_url=redis_url).stdout.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"samesamesame1", "samesamesame2"}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_prompt_is_shown_on_demand_only(buried: list[str], redis_url: str, form: list[str]):
    """Neither the body nor what Celery repeats of the arguments; headers and properties are."""
    shown = kagura("dead", "show", "aaaa2", *form, redis_url=redis_url).stdout
    assert PROMPT not in shown
    assert "argsrepr" in shown
    assert "delivery_tag" in shown
    assert "aaaa2222aaaa" in shown
    assert PROMPT in kagura("dead", "show", "aaaa2", "--body", *form, redis_url=redis_url).stdout
    assert PROMPT not in kagura("dead", "list", *form, redis_url=redis_url).stdout


def test_a_machine_reads_the_body_as_json(buried: list[str], redis_url: str):
    """Celery's own form: args, kwargs, embedded."""
    shown = document(kagura("dead", "show", "aaaa1111aaaa", "--body", "--json", redis_url=redis_url))
    assert shown["body"] == [[{"messages": [{"role": "user", "content": PROMPT}]}], {}, {}]
    assert shown["headers"]["task"] == "kagura.complete"
    assert "body" not in document(kagura("dead", "show", "aaaa1111aaaa", "--json", redis_url=redis_url))


def test_garbage_is_shown_escaped_and_on_demand_only(buried: list[str], redis_url: str):
    """Its first bytes, which steer no terminal."""
    assert "not shown" in kagura("dead", "show", "bbbb", redis_url=redis_url).stdout
    assert "a message" not in kagura("dead", "show", "bbbb", redis_url=redis_url).stdout
    shown = kagura("dead", "show", "bbbb", "--body", redis_url=redis_url).stdout
    assert r"\x1b[2J\xff not \x00 a message" in shown
    assert "\x1b" not in shown
    assert " bytes more" in shown
    told = document(kagura("dead", "show", "bbbb", "--json", redis_url=redis_url))
    assert (told["is_message"], "first_bytes" in told) == (False, False)


@pytest.mark.parametrize("body", ["%%%", "AAAA", "W10", None, 5])
def test_a_body_that_cannot_be_read_is_no_crash(client_of_redis: redis.Redis, redis_url: str, body: object):
    """Whatever stands there is shown as far as it can be."""
    bury(client_of_redis, json.dumps({**json.loads(kombu_message()), "body": body}).encode(), letter_id="odd-one")
    for form in ([], ["--json"]):
        assert kagura("dead", "show", "odd-one", "--body", *form, redis_url=redis_url).returncode == 0


def test_what_a_message_says_of_itself_steers_no_terminal(client_of_redis: redis.Redis, redis_url: str):
    """A task's name and headers come from whoever could write to the queue."""
    bury(client_of_redis, kombu_message(task_id="\x1b[2J\n\n" + "x" * 500, note="\x1b]0;\ud800"), letter_id="evil-one")
    listed = kagura("dead", "list", redis_url=redis_url).stdout
    shown = kagura("dead", "show", "evil-one", redis_url=redis_url).stdout
    assert "\x1b" not in listed + shown
    assert len(listed.splitlines()) == 2
    assert max(map(len, listed.splitlines())) < 250
    told = document(kagura("dead", "show", "evil-one", "--json", redis_url=redis_url))
    assert told["headers"]["note"] == "\x1b]0;\ud800"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("aaaa", "aaaa is ambiguous: aaaa2222aaaa, aaaa1111aaaa"),
        ("cccc", "no dead letter has the id 'cccc'"),
        ("aaa", "give at least 4 characters of an id"),
        ("", "give at least 4 characters of an id"),
        ("*", "give at least 4 characters of an id"),
    ],
)
def test_an_id_is_known_and_unambiguous_or_nothing_happens(
    buried: list[str], client_of_redis: redis.Redis, redis_url: str, given: str, told: str
):
    """One line, and none of the other letters that were named is touched."""
    assert told in the_error(kagura("dead", "show", given, redis_url=redis_url))
    for verb in ("retry", "drop"):
        assert told in the_error(kagura("dead", verb, "bbbb3333bbbb", given, redis_url=redis_url))
    assert ids_left(client_of_redis) == buried


@pytest.mark.parametrize("verb", ["retry", "drop"])
@pytest.mark.parametrize("options", [[], ["--all", "aaaa1"]])
def test_nobody_means_all_by_accident(
    buried: list[str], client_of_redis: redis.Redis, redis_url: str, verb: str, options: list[str]
):
    """Either ids or --all."""
    assert "--all alone" in the_error(kagura("dead", verb, *options, redis_url=redis_url))
    assert ids_left(client_of_redis) == buried


def test_named_letters_are_sent_again(buried: list[str], client_of_redis: redis.Redis, redis_url: str):
    """Each to its own queue, once however often it was named; garbage, too, where it is named."""
    done = kagura("dead", "retry", "aaaa2", "aaaa2222", "bbbb", redis_url=redis_url)
    assert (done.stdout, done.stderr) == ("2 dead letters sent again\n", "")
    assert ids_left(client_of_redis) == buried[:1]
    [sent] = client_of_redis.lrange("llm\x06\x163", 0, -1)
    assert json.loads(sent)["headers"]["id"] == "task-two"
    assert DEATHS_HEADER not in json.loads(sent)["headers"]
    assert client_of_redis.lrange("llm", 0, -1) == [GARBAGE]


def test_all_tasks_are_sent_again(buried: list[str], client_of_redis: redis.Redis, redis_url: str):
    """What is no task stays: it would be back at once, or end a worker that is not ours."""
    done = kagura("dead", "retry", "--all", redis_url=redis_url)
    assert done.stdout == "2 dead letters sent again\n"
    assert "1 dead letter holds no task, and stays" in done.stderr
    assert ids_left(client_of_redis) == buried[2:]
    told = document(kagura("dead", "retry", "--all", "--json", redis_url=redis_url))
    assert told == {"sent": 0, "gone": 0, "stay": 1}


def test_what_was_buried_is_answered_after_all(
    start_workers: Fleet, settings: Settings, client_of_redis: redis.Redis, redis_url: str
):
    """Whoever waited was told that the task is poisoned; sent again, it is answered under the same id."""
    result = LLMClient(settings).submit("Are you still there?")
    raw = client_of_redis.rpop("llm\x06\x163")
    create_app(settings).backend.mark_as_failure(result.id, TaskPoisoned(result.id, 3))
    bury(client_of_redis, raw, queue="llm\x06\x163")
    with pytest.raises(TaskPoisoned):
        result.get(timeout_s=10)
    assert kagura("dead", "retry", "--all", redis_url=redis_url).stdout == "1 dead letter sent again\n"
    start_workers(1)
    assert LLMClient(settings).result(result.id).get(timeout_s=60).text
    assert ids_left(client_of_redis) == []


def test_garbage_in_a_queue_ends_in_the_list(
    start_workers: Fleet, settings: Settings, client_of_redis: redis.Redis, redis_url: str
):
    """The worker goes on; the bytes are kept as they were."""
    [worker] = start_workers(1)
    client_of_redis.lpush("llm", GARBAGE)
    until(lambda: ids_left(client_of_redis), 30, "a dead letter")
    [letter_id] = ids_left(client_of_redis)
    assert "it is no message" in kagura("dead", "list", redis_url=redis_url).stdout
    assert r"\xff not \x00" in kagura("dead", "show", letter_id[:8], "--body", redis_url=redis_url).stdout
    assert worker.is_running
    assert LLMClient(settings).complete("And you?").text


def test_what_the_server_refuses_is_one_line(client_of_redis: redis.Redis, redis_url: str):
    """And the letter stays."""
    bury(client_of_redis, kombu_message(), queue="no-list", letter_id="stays-here")
    client_of_redis.set("no-list", "something else", ex=60)
    assert "refuses: WRONGTYPE" in the_error(kagura("dead", "retry", "stays-here", redis_url=redis_url))
    assert ids_left(client_of_redis) == ["stays-here"]


def test_named_letters_are_dropped(buried: list[str], client_of_redis: redis.Redis, redis_url: str):
    """Naming them is asking for it."""
    assert document(kagura("dead", "drop", "aaaa1", "bbbb", "--json", redis_url=redis_url)) == {"dropped": 2, "gone": 0}
    assert ids_left(client_of_redis) == buried[1:2]


def test_all_are_dropped_on_a_second_word_only(buried: list[str], client_of_redis: redis.Redis, redis_url: str):
    """A script has to say --yes; a person is asked."""
    assert "--yes" in the_error(kagura("dead", "drop", "--all", redis_url=redis_url))
    assert drop_all_in_a_terminal(redis_url, "n") == 1
    assert ids_left(client_of_redis) == buried
    assert drop_all_in_a_terminal(redis_url, "y") == 0
    assert ids_left(client_of_redis) == []


def test_all_are_dropped_with_yes(buried: list[str], client_of_redis: redis.Redis, redis_url: str):
    """Without a question."""
    done = kagura("dead", "drop", "--all", "--yes", redis_url=redis_url)
    assert done.stdout == "3 dead letters dropped\n"
    assert ids_left(client_of_redis) == []


def drop_all_in_a_terminal(redis_url: str, answer: str) -> int:
    """The exit code of `dead drop --all`, once somebody has answered its question."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "KAGURA_TASKS_REDIS_URL": redis_url}
    command = [PROGRAM, "dead", "drop", "--all"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        _, asked = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "Drop 3 dead letters for good?" in asked
    return process.returncode


@pytest.mark.parametrize("command", [["list"], ["show", "aaaa"], ["retry", "--all"], ["drop", "--all", "--yes"]])
def test_redis_away_is_one_line(command: list[str]):
    """The address without its password."""
    told = the_error(kagura("dead", *command, redis_url=f"redis://:pa55word@127.0.0.1:{free_port()}/0"))
    assert "cannot reach Redis at redis://***@127.0.0.1" in told
    assert "pa55word" not in told
