"""`kagura-tasks files`: a folder's files to workers, a line about each, and one answer over all of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kagura_tasks.embedded_redis import EmbeddedRedis
from tests.integration.test_cli import Done, document, kagura, program, started, the_error
from tests.support.llm import StubServer
from tests.support.map_scene import MapScene, MapWorkers
from tests.support.wait import until
from tests.support.workers import Fleet, WorkerOptions

Json = dict[str, Any]

PROMPT = "Sum up {{ path }}."
REDUCE = "All:{% for part in parts %} <{{ part }}>{% endfor %}"


@pytest.fixture(scope="module")
def workers(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapWorkers]:
    """A worker that does not see this disk: it is allowed no folder, so that files are sent to it."""
    with EmbeddedRedis() as server:
        fleet = Fleet(server.url, stub_server.base_url, tmp_path_factory.mktemp("files"))
        try:
            (worker,) = fleet(1, WorkerOptions("asyncio", 32, "llm,llm.batch,files"))
            yield MapWorkers(server.url, stub_server, worker)
        finally:
            fleet.stop()


@pytest.fixture
def scene(workers: MapWorkers, stub: StubServer) -> Iterator[MapScene]:
    """A provider that echoes, and this test's tenant."""
    yield (scene := MapScene(workers))
    scene.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that can be read, one that cannot, and one that a rule leaves out."""
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Tides\n\nThe sea rises.\n")
    (folder / "deep" / "b.csv").write_text("port,height\nBrest,6.5\n")
    (folder / "cut.pdf").write_bytes(b"%PDF-1.7\n1 0 obj")
    (folder / "c.log").write_text("nothing")
    (folder / ".gitignore").write_text("*.log\n")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the lines go."""
    return tmp_path / "out.jsonl"


@pytest.fixture
def ask(scene: MapScene, folder: Path) -> Callable[..., Done]:
    """Runs the command on the folder, for this test's tenant."""

    def run(*options: str, prompt: str = PROMPT) -> Done:
        command = ["files", str(folder), "--prompt", prompt, *options, "--tenant", scene.settings.tenant]
        return kagura(*command, redis_url=scene.settings.redis_url)

    return run


def lines(path: Path) -> dict[str, Json]:
    """The lines by their paths, each of which is there once."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def statuses(path: Path) -> dict[str, str]:
    return {name: line["status"] for name, line in lines(path).items()}


def told_command(stderr: str, before: str) -> list[str]:
    """What the program said to type."""
    told = re.search(rf"{before}: kagura-tasks (.*)", stderr)
    assert told, stderr
    return shlex.split(told[1])


def many(folder: Path, fast: int, held: int) -> None:
    """Files of which the first ones are answered at once, and the others only when they are released."""
    for number in range(fast + held):
        (folder / f"{number:02}-{'fast' if number < fast else 'held'}.txt").write_text(f"Text {number}.")


def test_everything_that_is_found_has_a_line(ask: Callable[..., Done], out: Path, scene: MapScene):
    """With its answer, or with why there is none; that a file has failed is the exit code."""
    done = ask("--out", str(out))
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    left_out = {".gitignore": "skipped", "c.log": "skipped"}
    assert statuses(out) == {"a.md": "ok", "deep/b.csv": "ok", "cut.pdf": "failed", **left_out}
    found = lines(out)
    assert found["a.md"]["answer"] == "Sum up a.md.\n\n<file>\n# Tides\n\nThe sea rises.\n</file>"
    assert found["a.md"]["media_type"] == "text/markdown"
    assert found["cut.pdf"]["error"]["type"] == "FileDamaged"
    assert "2 answered (0 cached), 1 failed, 2 skipped" in done.stderr
    assert scene.stub.count() == 2


def test_the_answer_over_all_files_is_printed(ask: Callable[..., Done], out: Path, folder: Path):
    """And nothing else on standard output, so that it can be piped on; the prompts may be in files."""
    (folder.parent / "reduce.txt").write_text(REDUCE)
    done = ask("--reduce", f"@{folder.parent / 'reduce.txt'}", "--out", str(out), "--pattern", "*.md")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("All: <")
    assert "Sum up a.md." in done.stdout
    assert "answer" in lines(out)["a.md"]


def test_without_a_file_for_them_answers_are_printed(ask: Callable[..., Done]):
    """Each under its file's path; what failed is told beside them."""
    done = ask()
    assert done.returncode == 3
    assert {"a.md", "deep/b.csv", "Sum up deep/b.csv."} <= set(done.stdout.splitlines())
    assert "failed: cut.pdf: is damaged" in done.stderr


def test_a_name_steers_no_terminal(ask: Callable[..., Done], folder: Path):
    """Nor does an answer; a name that is no text is a line, too."""
    (folder / "\x1b[31mred\n.txt").write_text("A text.")
    (folder / "\x1b[32m.pdf").write_bytes(b"%PDF-1.7\n1 0 obj")
    os.close(os.open(os.fsencode(folder) + b"/\xff.txt", os.O_CREAT))
    done = ask(prompt="\x1b[33m {{ path }}")
    assert done.returncode == 3
    assert "\x1b" not in done.stdout + done.stderr
    assert "\N{REPLACEMENT CHARACTER}[31mred .txt" in done.stdout
    assert "failed: \\udcff.txt: its name is not UTF-8" in done.stderr


@pytest.mark.parametrize("word", ["DIR", "--prompt"])
def test_words_that_are_no_text_are_refused(scene: MapScene, tmp_path: Path, word: str):
    """A folder's name in another encoding, and a prompt."""
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(bad).mkdir()
    words = [bad, "--prompt", PROMPT] if word == "DIR" else [str(tmp_path), "--prompt", bad]
    done = program("files", *words, redis_url=scene.settings.redis_url)
    assert the_error(done).endswith("\\udcff is not UTF-8")


def test_a_machine_reads_one_document(ask: Callable[..., Done]):
    """With the counts, the cost, the answer over all, and the lines where they are in no file."""
    done = ask("--json", "--reduce", REDUCE)
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert [told[name] for name in ("ok", "cached", "failed", "skipped")] == [2, 0, 1, 2]
    assert told["reduced"]["text"].startswith("All:")
    assert {one["path"] for one in told["files"]} == {"a.md", "deep/b.csv", "cut.pdf", ".gitignore", "c.log"}
    assert told["prompt_tokens"] > 0


def test_a_second_run_is_paid_for_by_the_first(ask: Callable[..., Done], out: Path, scene: MapScene):
    """It parses nothing and asks nothing. The file of the first one is in its way until it may be replaced."""
    assert ask("--out", str(out), "--pattern", "*.md").returncode == 0
    assert f"{out} exists: --overwrite replaces it" in the_error(ask("--out", str(out), "--pattern", "*.md"))
    done = ask("--out", str(out), "--pattern", "*.md", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert statuses(out)["a.md"] == "cached"
    assert scene.stub.count() == 1


def test_what_failed_is_tried_again_by_itself(ask: Callable[..., Done], out: Path, folder: Path, scene: MapScene):
    """By the command that is printed. The new file is the whole manifest again; the old one stays as it is."""
    done = ask("--out", str(out))
    (folder / "cut.pdf").write_text("Mended.")
    again = kagura(*told_command(done.stderr, "try the failed files again"), redis_url=scene.settings.redis_url)
    assert again.returncode == 0, again.stderr
    other = out.with_name("out-2.jsonl")
    assert statuses(other) == {**statuses(out), "cut.pdf": "ok"}
    assert lines(other)["cut.pdf"]["answer"].startswith("Sum up cut.pdf.")
    assert scene.stub.count() == 3
    nothing = ask("--retry-failed", str(other))
    assert (nothing.returncode, "nothing to do" in nothing.stderr) == (0, True)


def test_what_is_no_file_is_not_tried_again(ask: Callable[..., Done], out: Path, folder: Path, scene: MapScene):
    """A folder that could not be read, and a path that leads out, stay as they are: they have failed still."""
    other = out.with_name("earlier.jsonl")
    failed = [{"path": path, "status": "failed"} for path in ("deep", "../secret", "no\0name", "a.md")]
    other.write_text("".join(json.dumps(line) + "\n" for line in failed))
    done = ask("--retry-failed", str(other), "--out", str(out))
    assert done.returncode == 3, done.stderr
    assert statuses(out) == {"deep": "failed", "../secret": "failed", "no\0name": "failed", "a.md": "ok"}
    assert "1 answered (0 cached), 3 failed" in done.stderr
    assert scene.stub.count() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on(
    number: signal.Signals, folder: Path, out: Path, scene: MapScene, tmp_path: Path
):
    """Ctrl-C pauses it and prints the command; killed, it is continued by its id. Each file is paid for once."""
    for file in ("cut.pdf", "a.md", "deep/b.csv"):
        (folder / file).unlink()
    many(folder, fast=3, held=5)
    scene.stub.script(when="held.txt", echoes=True, held=True)
    command = ["files", str(folder), "--prompt", PROMPT, "--out", str(out), "--tenant", scene.settings.tenant]
    url = scene.settings.redis_url
    with started(tmp_path, *command, "--max-in-flight", "2", "--id", "one", redis_url=url) as running:
        until(lambda: len(lines(out)) == 5 and scene.stub.count() == 5, 60, "a full window")
        if number is signal.SIGKILL:
            running.process.kill()
            running.process.wait()
            go_on = [*command, "--id", "one"]
        else:
            assert running.stop(number) == 130
            go_on = told_command(running.stderr, "To go on")
    assert sum(status == "ok" for status in statuses(out).values()) == 3
    if number is signal.SIGKILL:
        with out.open("a") as file:
            file.write('{"path": "05-held.txt", "sta')  # as a machine that loses power leaves it
    scene.stub.release()
    scene.stub.script(echoes=True)
    done = kagura(*go_on, redis_url=url)
    assert done.returncode == 0, done.stderr
    assert "run one goes on" in done.stderr
    assert sum(status == "ok" for status in statuses(out).values()) == 8
    assert scene.stub.count() == 8


def test_an_id_stands_for_one_question(ask: Callable[..., Done], scene: MapScene):
    """About the same files. `map` knows the run, too, but cannot go on with it."""
    assert ask("--id", "one", "--pattern", "*.md").returncode == 0
    assert ask("--id", "one", "--pattern", "*.md").returncode == 0
    assert scene.stub.count() == 1
    assert "choose an --id" in ask("--id", "one", "--pattern", "*.md", prompt="Another?").stderr
    name = ["one", "--tenant", scene.settings.tenant]
    assert document(kagura("map", "status", *name, "--json", redis_url=scene.settings.redis_url))["done"] == 1
    assert "run over files" in the_error(kagura("map", "resume", *name, redis_url=scene.settings.redis_url))


@pytest.mark.parametrize(
    ("options", "prompt", "words"),
    [
        ((), "{{ nothing }}", "nothing"),
        ((), "{{", "template"),
        (("--reduce", "{{ text }}"), PROMPT, "text"),
        (("--retry-failed", "missing.jsonl"), PROMPT, "cannot read missing.jsonl"),
        (("--pattern", "!*"), PROMPT, "matches no file"),
        (("--id", "a b"), PROMPT, "map's id"),
    ],
)
def test_what_cannot_be_right_is_one_line(
    ask: Callable[..., Done], scene: MapScene, options: tuple[str, ...], prompt: str, words: str
):
    """Nothing is sent, and nothing is written."""
    assert words in the_last_error(ask(*options, prompt=prompt))
    assert scene.keys() == []


def test_a_manifest_that_is_none_is_refused(ask: Callable[..., Done], out: Path):
    """As is the one that would be written over; a pattern beside a manifest is wrong usage."""
    for text in ("[]\n", '{"custom_id": "1"}\n', "nothing\n"):
        out.write_text(text)
        assert "is no manifest: line 1" in the_error(ask("--retry-failed", str(out)))
    assert "choose another file" in the_error(ask("--retry-failed", str(out), "--out", str(out)))
    assert ask("--retry-failed", str(out), "--pattern", "*.md").returncode == 2


def test_a_folder_that_is_none_is_refused(scene: MapScene, tmp_path: Path):
    """Before anything is sent."""
    done = kagura("files", str(tmp_path / "missing"), "--prompt", "x", redis_url=scene.settings.redis_url)
    assert "missing" in the_last_error(done)


INLINE = {
    "KAGURA_TASKS_EXECUTION": "inline",
    "KAGURA_TASKS_REDIS_URL": "redis://localhost:1/0",
    "OPENAI_API_KEY": "test-key",
}


def test_a_run_of_this_process_needs_no_redis(stub: StubServer, folder: Path, out: Path):
    """With inline calls; the lines and the answer are the same."""
    stub.script(echoes=True)
    command = ["files", str(folder), "--prompt", PROMPT, "--reduce", REDUCE, "--out", str(out)]
    done = program(*command, environment={**INLINE, "OPENAI_API_BASE": stub.base_url})
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("All: <")
    assert statuses(out)["deep/b.csv"] == "ok"


def test_a_run_of_this_process_writes_what_is_in_flight(stub: StubServer, folder: Path, out: Path, tmp_path: Path):
    """After Ctrl-C: it would be lost with the process, and was paid for."""
    many(folder, fast=1, held=3)
    stub.script(echoes=True)
    stub.script(when="held.txt", echoes=True, held=True)
    command = ["files", str(folder), "--prompt", PROMPT, "--out", str(out), "--pattern", "*.txt"]
    environment = {**INLINE, "OPENAI_API_BASE": stub.base_url}
    with started(tmp_path, *command, "--max-in-flight", "2", environment=environment) as running:
        until(lambda: stub.count() == 3, 60, "a full window")
        running.process.send_signal(signal.SIGINT)
        until(lambda: "calls in flight" in running.stderr, 30, "the pause")
        stub.release()
        assert running.process.wait(60) == 130
        assert "To ask again: kagura-tasks files" in running.stderr
    assert {name: status for name, status in statuses(out).items() if name.endswith(".txt")} == {
        "00-fast.txt": "ok",
        "01-held.txt": "ok",
        "02-held.txt": "ok",
    }


def the_last_error(done: Done) -> str:
    """Why a command failed that had begun to read."""
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    return last
