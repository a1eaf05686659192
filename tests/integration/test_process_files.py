"""Folders of files through the model: what comes back, what it costs, and what becomes of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kagura_tasks import FileRef, LLMClient
from kagura_tasks.errors import (
    ArchiveBomb,
    FileDamaged,
    FileEmpty,
    FileNotAllowed,
    FileTooLarge,
    FileUnreadable,
    InvalidRequest,
    PromptError,
    RequestRefused,
)
from kagura_tasks.metrics.figures import by
from kagura_tasks.metrics.snapshot import read_snapshot
from tests.support import files
from tests.support.map_scene import MapScene
from tests.support.wait import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of several kinds, one of them left out by a rule and one that nobody reads."""
    (tmp_path / "notes").mkdir()
    for path, content in {
        "a.md": b"# Tides\n\nThe sea rises.\n",
        "b.docx": files.docx(),
        "notes/c.csv": b"port,height\nBrest,6.5\n",
        "notes/d.html": b"<h1>Moons</h1><p>They pull.</p>",
        "notes/e.json": b'{"height": 7}',
        "f.pdf": files.pdf(["One page."]),
        "g.log": b"nothing",
        ".gitignore": b"*.log\n",
        "h.bin": bytes(range(256)) * 8,
    }.items():
        (tmp_path / path).write_bytes(content)
    return tmp_path


READ = ["a.md", "b.docx", "f.pdf", "notes/c.csv", "notes/d.html", "notes/e.json"]


def by_path(client: LLMClient, folder: Path, prompt: str = "Sum up.", **options: object) -> dict[str, str]:
    """The status of each file."""
    return {one.path: one.row.status for one in client.process_files(folder, prompt, **options).get()}


def test_each_file_is_answered_in_the_order_of_the_paths(maps: MapScene, folder: Path):
    """By its text, with the prompt before it; and everything that was found has a row."""
    outcomes = maps.client.process_files(folder, "Sum up {{ path }}.").get()
    assert [one.path for one in outcomes if one.completion] == READ
    told = {one.path: (one.row.status, one.row.reason) for one in outcomes if not one.completion}
    assert told[".gitignore"][0] == "skipped"
    assert told["g.log"] == ("skipped", ".gitignore: *.log")
    assert told["h.bin"] == ("skipped", "is application/octet-stream, which is not read")
    first = next(one for one in outcomes if one.path == "a.md")
    assert first.get().text == "Sum up a.md.\n\n<file>\n# Tides\n\nThe sea rises.\n</file>"
    assert (first.row.media_type, first.row.size_bytes) == ("text/markdown", 24)
    assert maps.stub.count() == len(READ)
    # Of this tenant: tasks of a map that another test left may be handed back only now.
    total = read_snapshot(maps.settings).total
    own = {series: counts for series, counts in total.items() if series.tenant == maps.settings.tenant}
    assert by(own, "task")["kagura.load_file"].counts["done"] == len(READ)


def test_rows_come_while_it_runs(maps: MapScene, folder: Path):
    """What is left out at once, files as they end; a reader goes on where another one left."""
    maps.stub.script(when="Sum up a.md", echoes=True, held=True)
    result = maps.client.process_files(folder, "Sum up {{ path }}.", max_in_flight=2)
    outcomes = result.stream()
    seen = [one.path for _, one in zip(range(5), outcomes, strict=False)]
    assert set(seen[:3]) == {".gitignore", "g.log", "h.bin"}
    assert "a.md" not in seen
    maps.stub.release()
    rest = [one.path for one in maps.client.files(result.id).stream(after=outcomes.cursor)]
    assert sorted([*seen, *rest]) == sorted([*READ, ".gitignore", "g.log", "h.bin"])


def test_a_second_run_parses_nothing_and_calls_nobody(maps: MapScene, folder: Path):
    """By content: a file that was renamed counts as the same. A prompt of its own does not parse again."""
    assert by_path(maps.client, folder)["b.docx"] == "ok"
    (folder / "b.docx").rename(folder / "renamed.docx")
    again = by_path(maps.client, folder)
    assert {again[path] for path in [*READ, "renamed.docx"] if path != "b.docx"} == {"cached"}
    assert maps.stub.count() == len(READ)
    other = maps.client.process_files(folder, "Translate.", pattern="*.pdf").get()
    assert [one.row.status for one in other if one.completion] == ["ok"]


def test_an_edited_section_is_the_only_one_that_is_paid_for(maps: MapScene, tmp_path: Path):
    """A long file is asked about in pieces; the answers follow each other."""
    chapters = [f"# Chapter {number}\n\n{f'word{number:02} ' * 300}\n\n" for number in range(12)]
    book = tmp_path / "book.md"
    book.write_text("".join(chapters))
    (one,) = maps.client.process_files(book, "Sum up.", section_tokens=1000).get()
    calls = maps.stub.count()
    assert calls == 12
    places = [one.get().text.index(f"Chapter {number}\n") for number in range(12)]
    assert places == sorted(places)
    chapters[5] = f"# Chapter 5\n\n{'other ' * 330}\n\n"
    book.write_text("".join(chapters))
    (one,) = maps.client.process_files(book, "Sum up.", section_tokens=1000).get()
    assert maps.stub.count() == calls + 1
    assert (one.row.status, "other" in one.get().text) == ("ok", True)


def test_the_answers_to_the_pieces_can_be_combined(maps: MapScene, tmp_path: Path):
    """One answer about a long file; its usage is that of all calls."""
    (tmp_path / "book.md").write_text("".join(f"# Part {number}\n\n{'word ' * 400}\n" for number in range(3)))
    combine = "Join {{ count }}: {{ parts | map('length') | join(',') }}"
    (one,) = maps.client.process_files(tmp_path, "Count.", section_tokens=600, combine_prompt=combine).get()
    assert one.get().text.startswith("Join 3: ")
    assert one.get().attempts == 4


def test_the_answers_of_all_files_are_reduced_by_their_names(maps: MapScene, folder: Path):
    """Once; what was skipped is not told of, what failed is."""
    (folder / "z.pdf").write_bytes(b"%PDF-1.7\n1 0 obj")
    reduce = "{{ parts | join('|') }} and {{ failed | length }} of {{ count }}"
    result = maps.client.process_files(folder, "Sum up.", reduce_prompt=reduce)
    text = result.reduced.get().text
    assert all(f"## {path}\n\n" in text for path in READ)
    assert text.endswith("and 1 of 7")
    assert maps.stub.count() == len(READ) + 1
    with pytest.raises(InvalidRequest, match="reduce_prompt"):
        _ = maps.client.process_files(folder, "Sum up.").reduced


def test_files_travel_as_references(maps: MapScene, folder: Path):
    """Below an allowed root by their paths, else by the hash of their content in Redis: never in a message."""
    below = LLMClient(maps.settings.override(file_roots=str(folder.parent)))
    assert by_path(below, folder)["a.md"] == "ok"
    assert not list(maps.redis.scan_iter(f"kagura:files:{maps.settings.tenant}:upload:*"))
    assert by_path(maps.client, folder, prompt="Translate.")["a.md"] == "ok"
    uploads = list(maps.redis.scan_iter(f"kagura:files:{maps.settings.tenant}:upload:*"))
    assert len(uploads) == len(READ)
    assert all(0 < maps.redis.ttl(key) <= 86_400 for key in uploads)


def test_a_folder_that_is_not_allowed_is_refused(maps: MapScene, folder: Path):
    """By the client, before anything is sent, and by the worker, whatever a client says."""
    elsewhere = LLMClient(maps.settings.override(file_roots=str(folder / "notes")))
    with pytest.raises(FileNotAllowed, match="FILE_ROOTS"):
        elsewhere.process_files(folder, "Sum up.")
    (one,) = maps.client.process_files([FileRef(root="/etc", path="passwd")], "Sum up.", upload=False).get()
    assert isinstance(one.error, FileNotAllowed)
    assert (one.path, maps.stub.count()) == ("passwd", 0)


def test_what_is_no_folder_is_refused(maps: MapScene, tmp_path: Path):
    """As are a prompt that is no template, and a pattern for a list."""
    with pytest.raises(FileUnreadable, match="no such folder"):
        maps.client.process_files(tmp_path / "nowhere", "Sum up.")
    with pytest.raises(PromptError, match="author"):
        maps.client.process_files(tmp_path, "By {{ author }}.")
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        maps.client.process_files(tmp_path, " ")
    with pytest.raises(InvalidRequest, match="section_tokens"):
        maps.client.process_files(tmp_path, "Sum up.", section_tokens=0)
    with pytest.raises(InvalidRequest, match="pattern"):
        maps.client.process_files([tmp_path / "a.md"], "Sum up.", pattern="*.md")


def test_hostile_files_fail_alone(maps: MapScene, tmp_path: Path):
    """Each with its typed error and its path below the root; nothing else is harmed, and nothing is paid for them."""
    (tmp_path / "in").mkdir()
    inside = tmp_path / "in"
    (inside / "good.txt").write_text("The sea rises.")
    (inside / "cut.pdf").write_bytes(files.pdf()[:200])
    files.write_docx_bomb(inside / "bomb.docx", 300_000_000)
    (inside / "empty.txt").write_text("\n")
    (tmp_path / "secret.txt").write_text("secret")
    (inside / "out.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "gone.txt").write_text("gone")
    listed = [FileRef(root=str(inside), path=name) for name in ("gone.txt", "good.txt")]
    (inside / "gone.txt").unlink()
    outcomes = {one.path: one for one in maps.client.process_files(inside, "Sum up.").get()}
    assert outcomes["good.txt"].get().text.endswith("The sea rises.\n</file>")
    assert isinstance(outcomes["cut.pdf"].error, FileDamaged)
    assert isinstance(outcomes["bomb.docx"].error, ArchiveBomb | FileTooLarge)
    assert isinstance(outcomes["out.txt"].error, FileNotAllowed)
    assert isinstance(outcomes["empty.txt"].error, FileEmpty)
    assert outcomes["empty.txt"].row.status == "skipped"
    gone, good = maps.client.process_files(listed, "Sum up.", upload=False).get()
    assert (type(gone.error), good.row.status) == (FileUnreadable, "cached")
    (row,) = maps.client.process_files(["../secret.txt"], "Sum up.").get()
    assert (row.row.status, type(row.error)) == ("failed", FileNotAllowed)
    assert maps.stub.count() == 1


def test_what_failed_is_tried_again_alone(maps: MapScene, folder: Path):
    """At the model: without being parsed again. What succeeded is not touched."""
    maps.stub.script(when="Moons", status=400, times=1)
    result = maps.client.process_files(folder, "Sum up.", use_cache=False)
    failed = [one for one in result.get() if one.row.status == "failed"]
    assert [(one.path, type(one.error)) for one in failed] == [("notes/d.html", RequestRefused)]
    calls = maps.stub.count()
    maps.client.resume_map(result.id, retry_failed=True)
    again = {one.path: one.row.status for one in maps.client.files(result.id).get()}
    assert (again["notes/d.html"], maps.stub.count()) == ("ok", calls + 1)


def test_a_picture_for_a_model_that_takes_none_is_refused_before_the_call(maps: MapScene, tmp_path: Path):
    """And sent as a part of the message to one that does."""
    (tmp_path / "a.png").write_bytes(files.picture())
    (refused,) = maps.client.process_files(tmp_path, "What is it?", model="cohere/command").get()
    assert "image" in str(refused.error)
    assert maps.stub.count() == 0
    (seen,) = maps.client.process_files(tmp_path, "What is it?").get()
    assert seen.row.status == "ok"
    (request,) = maps.stub.ledger()["requests"]
    assert [part["type"] for part in request["body"]["messages"][0]["content"]] == ["text", "image_url"]


def test_a_run_can_be_cancelled_and_gone_on_with(maps: MapScene, folder: Path):
    """Files that were loaded already are not loaded again."""
    maps.stub.script(echoes=True, held=True)
    result = maps.client.process_files(folder, "Sum up.")
    until(lambda: maps.stub.count() == len(READ), what="all files at the model")
    result.cancel()
    until(lambda: result.progress().in_flight == 0, what="nothing in flight")
    maps.stub.reset()
    maps.stub.script(echoes=True)
    maps.client.resume_map(result.id)
    assert [one.path for one in maps.client.files(result.id).get() if one.completion] == READ


def test_no_text_of_a_file_is_in_a_message(maps: MapScene, folder: Path):
    """Nor the prompt: messages name the map. Both are kept there, for a time."""
    maps.stub.script(echoes=True, held=True)
    result = maps.client.process_files(folder, "CANARY.", max_in_flight=2)
    until(lambda: maps.stub.count() == 2, what="two files at the model")
    held = json.dumps([value.decode() for value in maps.redis.hvals("unacked")])
    assert "kagura.answer_file" in held
    assert "CANARY" not in held
    assert "Tides" not in held
    maps.stub.release()
    assert len(result.get()) == len(READ) + 3
