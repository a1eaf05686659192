"""`kagura-tasks map` that is stopped in the middle, in each way, and goes on: nothing is lost, or paid for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from kagura_tasks.cli.following import pause_if_started
from kagura_tasks.cli.map.job import resume_command
from kagura_tasks.cli.screen import Screen
from kagura_tasks.client import LLMClient
from kagura_tasks.settings import Settings
from tests.integration.test_cli import PROGRAM, Started, document, kagura, started, the_error
from tests.integration.test_cli_map import answers, the_resume_command, write_prompts
from tests.support.llm import LlmServer, StubServer
from tests.support.wait import until
from tests.support.workers import Fleet, Worker


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The rows' file."""
    return tmp_path / "in.jsonl"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The answers' file."""
    return tmp_path / "out.jsonl"


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def hold_from(stub: StubServer, source: Path, fast: int, held: int) -> None:
    """Rows of which the first ones are answered at once, and the others only when they are released."""
    write_prompts(source, *(f"fast {n}" for n in range(fast)), *(f"held {n}" for n in range(held)))
    stub.script(when="held", held=True)


def stopped_in_the_middle(
    running: Started, stub: StubServer, output: Path, stop: Callable[[], object], *, fast: int, window: int
) -> None:
    """Stop it once all the fast rows are in the output, and the window is full of held ones."""
    until(lambda: lines(output) == fast and stub.count() == fast + window, 60, "a full window")
    stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_pauses_and_the_printed_command_goes_on(
    number: signal.Signals,
    fleet: Fleet,
    stub: StubServer,
    source: Path,
    output: Path,
    settings: Settings,
    tmp_path: Path,
):
    """Exit code 130. What was in flight is kept, so that each row is paid for once, and is in the output once."""
    hold_from(stub, source, fast=8, held=12)
    command = ["map", str(source), str(output), "--tenant", settings.tenant, "--max-in-flight", "5"]
    with started(tmp_path, *command, redis_url=settings.redis_url) as running:
        codes: list[int] = []
        stopped_in_the_middle(running, stub, output, lambda: codes.append(running.stop(number)), fast=8, window=5)
        assert codes == [130], running.stderr
        told = the_resume_command(running.stderr)
    assert lines(output) == 8
    stub.release()
    stub.script(when="held")
    status = [*told[:1], "status", *told[2:], "--json"]
    until(
        lambda: document(kagura(*status, redis_url=settings.redis_url))["in_flight"] == 0,
        30,
        "the end of what was begun",
    )
    assert stub.count() == 13
    done = kagura(*told, redis_url=settings.redis_url)
    assert done.returncode == 0, done.stderr
    assert answers(output).keys() == {str(n) for n in range(1, 21)}
    assert stub.count() == 20


def test_ctrl_c_while_the_rows_are_read_sends_none(
    source: Path, output: Path, settings: Settings, tmp_path: Path, client_of_redis: redis.Redis
):
    """Exit code 130; neither a map nor a file is left, and that is said."""
    os.mkfifo(source)
    command = ["map", str(source), str(output), "--tenant", settings.tenant]
    with started(tmp_path, *command, redis_url=settings.redis_url) as running, source.open("wb", buffering=0) as rows:
        for number in range(2000):
            rows.write(b'{"prompt": "%d"}\n' % number)
        until(lambda: client_of_redis.keys(f"kagura:map:{settings.tenant}:*:items"), 30, "the first items")
        assert running.stop() == 130, running.stderr
        assert running.stderr.endswith("nothing was sent\n")
    assert not output.exists()
    assert not client_of_redis.keys("kagura:map:*:items")


def test_a_map_whose_rows_are_read_can_be_cancelled_from_elsewhere(
    source: Path, output: Path, settings: Settings, tmp_path: Path, client_of_redis: redis.Redis
):
    """But not paused, and that is said. Whoever reads them says what befell the map, and the same id begins anew."""
    os.mkfifo(source)
    name = ["one", "--tenant", settings.tenant]
    command = ["map", str(source), str(output), "--id", *name]
    with started(tmp_path, *command, redis_url=settings.redis_url) as running, source.open("wb", buffering=0) as rows:
        for number in range(2000):
            rows.write(b'{"prompt": "%d"}\n' % number)
        until(lambda: client_of_redis.keys(f"kagura:map:{settings.tenant}:one:items"), 30, "the first items")
        assert "cancel it" in the_error(kagura("map", "pause", *name, redis_url=settings.redis_url))
        done = kagura("map", "cancel", *name, redis_url=settings.redis_url)
        assert (done.returncode, done.stderr) == (0, "nothing was sent\n")
        rows.close()
        assert running.process.wait(60) == 1
        assert running.stderr.splitlines()[-1] == "error: task one was cancelled"
    source.unlink()
    write_prompts(source, "a")
    with started(tmp_path, *command, "--overwrite", redis_url=settings.redis_url) as running:
        until(lambda: "1 rows sent" in running.stderr, 60, "a map that is started")


def test_silence_is_told_and_waited_out(source: Path, output: Path, settings: Settings, tmp_path: Path):
    """Without a worker the map waits, however long, and says where to look; Ctrl-C pauses it."""
    write_prompts(source, "a")
    command = ["map", str(source), str(output), "--tenant", settings.tenant]
    impatient = {"KAGURA_TASKS_WAIT_TIMEOUT_S": "0.5"}
    with started(tmp_path, *command, redis_url=settings.redis_url, environment=impatient) as running:
        until(lambda: running.stderr.count("is a worker running?") >= 2, 60, "two complaints")
        assert running.stop() == 130, running.stderr
        assert the_resume_command(running.stderr)


def test_ctrl_c_just_after_the_start_pauses_too(settings: Settings, capsys: pytest.CaptureFixture[str]):
    """A map that nobody would know of does not go on."""
    client = LLMClient(settings)
    group = client.map(["a", "b"])
    pause_if_started(client, group.id, settings.tenant, resume_command(group.id, settings.tenant), Screen())
    assert group.status() == "paused"
    assert f"kagura-tasks map resume {group.id} --tenant {settings.tenant}" in capsys.readouterr().err


def test_a_killed_program_is_resumed(
    fleet: Fleet, stub: StubServer, source: Path, output: Path, settings: Settings, tmp_path: Path
):
    """The map goes on without it; `map resume` writes what is missing, and pays for nothing twice."""
    hold_from(stub, source, fast=4, held=6)
    map_id = f"killed-{settings.tenant}"
    command = ["map", "in.jsonl", "out.jsonl", "--tenant", settings.tenant, "--max-in-flight", "3", "--id", map_id]
    with started(tmp_path, *command, redis_url=settings.redis_url, cwd=tmp_path) as running:
        stopped_in_the_middle(running, stub, output, running.process.kill, fast=4, window=3)
        running.process.wait()
    with output.open("ab") as file:
        file.write(b'{"custom_id": "5", "te')  # as a machine that loses power leaves it
    stub.release()
    stub.script(when="held")
    done = kagura("map", "resume", map_id, "--tenant", settings.tenant, redis_url=settings.redis_url)
    assert done.returncode == 0, done.stderr
    assert answers(output).keys() == {str(n) for n in range(1, 11)}
    assert stub.count() == 10


def test_a_map_that_exists_goes_on_by_its_name(
    worker: Worker, llm: LlmServer, source: Path, output: Path, settings: Settings, tmp_path: Path
):
    """The same command with the same --id pays for nothing again; with other files, it is refused."""
    write_prompts(source, "a", "b")
    command = ["--tenant", settings.tenant, "--id", f"named-{settings.tenant}"]
    files = ["map", str(source), str(output)]
    assert kagura(*files, *command, redis_url=settings.redis_url).returncode == 0
    output.write_text("".join(output.read_text().splitlines(keepends=True)[:1]))
    again = kagura(*files, *command, "--resume", redis_url=settings.redis_url)
    assert (again.returncode, "goes on" in again.stderr) == (0, True)
    assert answers(output).keys() == {"1", "2"}
    assert llm.count() == 2
    elsewhere = kagura("map", str(source), str(tmp_path / "other.jsonl"), *command, redis_url=settings.redis_url)
    assert elsewhere.returncode == 1
    assert "is about other files" in elsewhere.stderr
    assert not (tmp_path / "other.jsonl").exists()


def test_a_full_disk_pauses(
    worker: Worker, llm: LlmServer, source: Path, output: Path, settings: Settings, tmp_path: Path
):
    """One line says which file; whole rows are in it, and the printed command goes on where there is room again."""
    write_prompts(source, *map(str, range(40)))
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    limited = f"import os, resource, sys; {limit}; os.execv(sys.argv[1], sys.argv[1:])"
    command = ["map", str(source), str(output), "--tenant", settings.tenant, "--max-in-flight", "2"]
    done = subprocess.run(
        [sys.executable, "-c", limited, PROGRAM, *command],
        env={**os.environ, "KAGURA_TASKS_REDIS_URL": settings.redis_url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: cannot write {output}: File too large"
    assert 0 < len(answers(output)) < 40
    again = kagura(*the_resume_command(done.stderr), redis_url=settings.redis_url)
    assert again.returncode == 0, again.stderr
    assert len(answers(output)) == 40
    assert llm.count() == 40


def test_a_map_that_is_gone_is_sent_again_without_what_is_answered(
    worker: Worker,
    llm: LlmServer,
    source: Path,
    output: Path,
    settings: Settings,
    client_of_redis: redis.Redis,
):
    """`map resume` says that Redis has lost it, and how to go on: with the output as the only memory."""
    write_prompts(source, "a", "b")
    command = ["map", str(source), str(output), "--tenant", settings.tenant, "--json"]
    map_id = document(kagura(*command, redis_url=settings.redis_url))["id"]
    for key in client_of_redis.scan_iter(f"kagura:map:{settings.tenant}:{map_id}*"):
        client_of_redis.delete(key)
    done = kagura("map", "resume", map_id, "--tenant", settings.tenant, redis_url=settings.redis_url)
    assert done.returncode == 1
    assert f"there is no map {map_id}" in done.stderr
    assert "kagura-tasks map IN.jsonl OUT.jsonl --resume" in done.stderr
    with source.open("a") as file:
        file.write('{"prompt": "c"}\n')
    assert document(kagura(*command, "--resume", redis_url=settings.redis_url))["answered"] == 3
    assert answers(output).keys() == {"1", "2", "3"}
    assert llm.count() == 3


def test_a_map_of_somebody_else_has_no_file(worker: Worker, llm: LlmServer, settings: Settings):
    """One that was started in Python is not written anywhere by `map resume`."""
    group = LLMClient(settings).map(["a"])
    assert "has no file" in the_error(
        kagura("map", "resume", group.id, "--tenant", settings.tenant, redis_url=settings.redis_url)
    )


def test_a_map_is_paused_from_elsewhere(
    fleet: Fleet, stub: StubServer, source: Path, output: Path, settings: Settings, tmp_path: Path
):
    """Whoever writes its answers writes those in flight, too, and ends with the command that goes on."""
    hold_from(stub, source, fast=2, held=6)
    map_id = f"paused-{settings.tenant}"
    command = ["map", str(source), str(output), "--tenant", settings.tenant, "--max-in-flight", "2", "--id", map_id]
    name = [map_id, "--tenant", settings.tenant]
    with started(tmp_path, *command, redis_url=settings.redis_url) as running:

        def pause() -> None:
            assert kagura("map", "pause", *name, redis_url=settings.redis_url).returncode == 0
            stub.release()

        stopped_in_the_middle(running, stub, output, pause, fast=2, window=2)
        assert running.process.wait(60) == 1
        assert "was paused" in running.stderr
        assert the_resume_command(running.stderr)[2] == map_id
    assert lines(output) == stub.count() == 4
    told = document(kagura("map", "status", *name, "--json", redis_url=settings.redis_url))
    assert (told["state"], told["done"], told["total"]) == ("paused", 4, 8)


INLINE = {
    "KAGURA_TASKS_EXECUTION": "inline",
    "KAGURA_TASKS_REDIS_URL": "redis://localhost:1/0",
    "OPENAI_API_KEY": "test-key",
}


def test_a_map_of_this_process_writes_what_is_in_flight(stub: StubServer, source: Path, output: Path, tmp_path: Path):
    """After Ctrl-C: it would be lost with the process, and was paid for. The output is what the rest is found by."""
    hold_from(stub, source, fast=2, held=6)
    environment = {**INLINE, "OPENAI_API_BASE": stub.base_url}
    command = ["map", str(source), str(output), "--max-in-flight", "3"]
    with started(tmp_path, *command, environment=environment) as running:

        def stop() -> None:
            running.process.send_signal(signal.SIGINT)
            until(lambda: "calls in flight" in running.stderr, 30, "the pause")
            stub.release()

        stopped_in_the_middle(running, stub, output, stop, fast=2, window=3)
        assert running.process.wait(60) == 130
        assert f"kagura-tasks map {source} {output} --resume" in running.stderr
    assert lines(output) == stub.count() == 5


def test_a_map_of_this_process_needs_no_redis(llm: LlmServer, source: Path, output: Path):
    """With inline calls the output is all that is left, and --resume goes by it."""
    write_prompts(source, "a", "b")
    environment = {**INLINE, "OPENAI_API_BASE": llm.base_url}
    done = subprocess.run(
        [PROGRAM, "map", str(source), str(output)], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert answers(output).keys() == {"1", "2"}
    assert "inline" in the_error(kagura("map", "resume", "any", environment=environment))
