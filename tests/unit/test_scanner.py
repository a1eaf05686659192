"""Which files a folder has: rules of git, links, types by content, and nothing dropped in silence."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kagura_tasks.errors import FileError, FileNotAllowed, FileUnreadable, InvalidRequest
from kagura_tasks.files.documents import FileRef, FileRow
from kagura_tasks.files.ignoring import IgnoreRules, parse_rules
from kagura_tasks.files.media_types import DOCX, OLE, XLSX, detect
from kagura_tasks.files.opening import opened_file, opened_root
from kagura_tasks.files.scanner import MAX_LEVELS, scan
from tests.support import files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(root: Path, *paths: str, text: str = "text") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def found(root: Path, pattern: str | None = None) -> list[str]:
    """The paths of the files."""
    return [one.path for one in scan(root, pattern=pattern) if isinstance(one, FileRef)]


def rows(root: Path, pattern: str | None = None) -> dict[str, FileRow]:
    """What is told of what is no file."""
    return {one.path: one for one in scan(root, pattern=pattern) if isinstance(one, FileRow)}


def test_the_order_is_that_of_the_names(root: Path):
    """Folder by folder, name by name, whatever the disk's own order is."""
    write(root, "b.txt", "a/z.txt", "a/b/c.txt", "B.txt", "a.txt", "ä.txt")
    assert found(root) == ["B.txt", "a/b/c.txt", "a/z.txt", "a.txt", "b.txt", "ä.txt"]


def test_a_reference_says_where_what_and_how_large(root: Path):
    """The root is absolute, the path is below it; the type goes by the content."""
    write(root, "a/notes.md", text="# Hello")
    assert list(scan(root)) == [FileRef(root=str(root), path="a/notes.md", size_bytes=7, media_type="text/markdown")]


#: Rules, and of these paths those that they leave in.
RULES = [
    ("*.log", ["a.log", "x/b.log", "c.txt"], ["c.txt"]),
    ("*.log\n!b.log", ["a.log", "x/b.log"], ["x/b.log"]),
    ("/a.log", ["a.log", "x/a.log"], ["x/a.log"]),
    ("build/", ["build/a", "x/build/b", "y/build"], ["y/build"]),
    ("build/\n!build/a", ["build/a"], []),  # what is in a folder that is left out cannot be had back
    ("build/*\n!build/a", ["build/a", "build/b"], ["build/a"]),
    ("x/**/z", ["x/z", "x/y/z", "x/y/y/z", "z"], ["z"]),
    ("**/x/y", ["x/y", "a/x/y", "a/y"], ["a/y"]),
    ("x/**", ["x/a", "x/y/b", "a"], ["a"]),
    ("x/y", ["x/y", "a/x/y"], ["a/x/y"]),
    ("a?[bc]", ["axb", "axd", "ab"], ["ab", "axd"]),
    ("[!a]x", ["ax", "bx"], ["ax"]),
    ("[[:digit:]]*", ["1a", "a1"], ["a1"]),
    ("# a\n\\#b\n\\!c", ["# a", "#b", "!c"], ["# a"]),
    ("a  \nb\\ ", ["a", "b ", "b"], ["b"]),
    ("a\r\nb\r\n", ["a", "b", "c"], ["c"]),
    ("[a\n/\n\n", ["[a", "b"], ["[a", "b"]),
]


@pytest.mark.parametrize(("rules", "paths", "left"), RULES)
def test_rules_are_gits(root: Path, rules: str, paths: list[str], left: list[str]):
    """The forms that a line of .gitignore can have."""
    write(root, *paths)
    (root / ".gitignore").write_bytes(rules.encode())
    assert found(root) == left


def test_deeper_rules_win_and_ours_win_over_gits(root: Path):
    """A folder's own rules are looked at first; in one folder, those of .kaguraignore."""
    write(root, "a.log", "x/a.log", "x/b.log", "keep.tmp", "x/draft.md")
    (root / ".gitignore").write_text("*.log\n*.tmp\n")
    (root / ".kaguraignore").write_text("!*.tmp\ndraft.md\n")
    (root / "x/.gitignore").write_text("!a.log\n")
    assert found(root) == ["keep.tmp", "x/a.log"]
    assert rows(root)["x/b.log"].reason == ".gitignore: *.log"
    assert rows(root)["x/draft.md"].reason == ".kaguraignore: draft.md"


def test_a_folder_that_is_left_out_is_one_row(root: Path):
    """It is not even looked into."""
    write(root, "node_modules/a/b.js", "node_modules/c.js")
    (root / ".gitignore").write_text("node_modules/\n")
    assert [row.path for row in rows(root).values()] == [".gitignore", "node_modules/"]


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@pytest.mark.parametrize("seed", range(5))
def test_random_trees_are_those_of_git(root: Path, seed: int):
    """`git ls-files` sees the same files, whatever the rules are and wherever they stand."""
    dice = random.Random(seed)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    names = ["a", "b", "ab", "a.log", "b.txt", "x y", "[a]", "!c", "#d"]
    words = [
        "a",
        "b",
        "ab",
        "*",
        "**",
        "a*",
        "*.log",
        "?",
        "[ab]",
        "[!a]",
        "\\!c",
        "\\#d",
        "*b*",
        "[[:alpha:]]",
        "a**b",
    ]
    for _ in range(15):
        path = root.joinpath(*(dice.choice(names) for _ in range(dice.randint(1, 3))))
        if not any(parent.is_file() for parent in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir() and ".git" not in path.parts)]:
        lines = [_random_rule(dice, words) for _ in range(dice.randint(0, 4))]
        (folder / ".gitignore").write_text("\n".join(lines))
    command = ["git", "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    theirs = {path for path in listed.split("\0") if path and not path.endswith(".gitignore")}
    assert set(found(root)) == theirs


def _random_rule(dice: random.Random, words: list[str]) -> str:
    rule = "/".join(dice.choice(words) for _ in range(dice.choice([1, 1, 2, 3])))
    return dice.choice(["", "", "!"]) + dice.choice(["", "", "/"]) + rule + dice.choice(["", "", "/"])


def test_a_hostile_rule_does_not_hang_the_scan():
    """With backtracking, this line takes longer than the universe has."""
    rules = IgnoreRules(rules=tuple(parse_rules("*a" * 30 + "*b\n" + "**/a/" * 30 + "b", ".gitignore")))
    started = time.monotonic()
    assert rules.rule_for(["a" * 255] * 40, is_folder=False) is None
    assert time.monotonic() - started < 1


def test_a_pattern_narrows_down(root: Path):
    """In the form of a line of .gitignore; what it leaves out has a row."""
    write(root, "a.md", "x/b.md", "x/c.txt", "y/d.md")
    assert found(root, "*.md") == ["a.md", "x/b.md", "y/d.md"]
    assert found(root, "x/**") == ["x/b.md", "x/c.txt"]
    assert rows(root, "*.md")["x/c.txt"].reason == "pattern: *.md"


@pytest.mark.parametrize("pattern", ["", "#", "!a", "/"])
def test_a_pattern_that_matches_nothing_is_refused(root: Path, pattern: str):
    """A slip must not look like an empty folder."""
    with pytest.raises(InvalidRequest, match="matches no file"):
        found(root, pattern)


def test_links_that_lead_out_are_refused(root: Path):
    """A typed row each, and nothing of what they lead to."""
    write(root.parent, "secret.txt", "outside/b.txt")
    (root / "file").symlink_to("../secret.txt")
    (root / "folder").symlink_to(root.parent / "outside")
    (root / "etc").symlink_to("/etc/passwd")
    (root / "gone").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    assert found(root) == []
    kinds = {path: type(row.exception) for path, row in rows(root).items()}
    refused = dict.fromkeys(["file", "folder", "etc"], FileNotAllowed)
    assert kinds == {**refused, "gone": FileUnreadable, "loop": FileUnreadable}


def test_links_into_the_folder_are_not_followed(root: Path):
    """Not in circles, and nothing twice: what they lead to is found by its own name."""
    write(root, "x/a.txt")
    (root / "x/up").symlink_to("..")
    (root / "b.txt").symlink_to("x/a.txt")
    assert found(root) == ["x/a.txt"]
    assert {path: row.status for path, row in rows(root).items()} == {"b.txt": "skipped", "x/up": "skipped"}


def test_what_is_no_file_is_never_opened(root: Path):
    """A pipe would wait for a writer for ever; it is a row at once."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        told = rows(root)
    assert {path: row.reason for path, row in told.items()} == {
        "pipe": "is a pipe, no regular file",
        "socket": "is a socket, no regular file",
    }


@contextmanager
def somebody_else() -> Generator[Path]:
    """A folder that anybody may enter, and a user who is not root: root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(was)


def test_what_may_not_be_read_is_a_row():
    """A folder, and a file; neither hides the others."""
    with somebody_else() as root:
        write(root, "a.txt", "b.txt", "x/c.txt")
        (root / "a.txt").chmod(0)
        (root / "x").chmod(0)
        told = rows(root)
        assert found(root) == ["b.txt"]
        (root / "x").chmod(0o700)
    assert {path: type(row.exception) for path, row in told.items()} == {"a.txt": FileUnreadable, "x": FileUnreadable}
    assert told["x"].reason == "this process may not read it"


def test_a_name_that_is_no_text_is_a_row(root: Path):
    """It cannot be written into a manifest; its bytes are spelled out."""
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt"))).write_text("text")
    assert {path: row.reason for path, row in rows(root).items()} == {"\\udcff.txt": "its name is not UTF-8"}


def test_a_folder_whose_name_cannot_travel_is_refused(root: Path):
    """As a whole: no reference to a file in it could be sent."""
    place = Path(os.fsdecode(os.fsencode(root) + b"/\xff"))
    write(place, "a.md")
    with pytest.raises(FileUnreadable, match="its name is not UTF-8"):
        found(place)


def test_folders_in_folders_have_an_end(root: Path):
    """Each level holds a descriptor: there is a limit, and a row where it is reached."""
    write(root, "/".join(["d"] * (MAX_LEVELS + 5)) + "/a.txt", "b.txt")
    assert found(root) == ["b.txt"]
    (row,) = rows(root).values()
    assert "levels of folders" in row.reason


def test_unreadable_rules_leave_the_folder_out(root: Path):
    """What they were to leave out must not go to a model because of that."""
    write(root, "x/secret.txt", "a.txt")
    (root / "x/.gitignore").mkdir()
    assert found(root) == ["a.txt"]
    assert rows(root)["x/.gitignore"].status == "failed"


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "x/../../a", "", ".", "x//a", "x\0"])
def test_a_path_that_leads_out_is_not_opened(root: Path, path: str):
    """Neither by its name nor as a reference."""
    with opened_root(str(root), None) as folder, pytest.raises(FileNotAllowed), opened_file(folder, path):
        pass
    if path != "x//a":
        with pytest.raises(ValueError, match="path"):
            FileRef(root=str(root), path=path)


def test_a_link_in_the_middle_of_a_path_is_not_followed(root: Path):
    """Also one that took a folder's place after the scan."""
    write(root.parent, "outside/a.txt")
    (root / "x").symlink_to("../outside")
    with (
        opened_root(str(root), None) as folder,
        pytest.raises(FileNotAllowed, match=r"x/a\.txt"),
        opened_file(folder, "x/a.txt"),
    ):
        pass


def test_what_takes_a_files_place_between_two_looks_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A link is not followed then either, and a pipe is not waited for."""
    write(root, "a.txt")
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    before = (root / "a.txt").stat()
    with opened_root(str(root), None) as folder, monkeypatch.context() as patch:
        patch.setattr("kagura_tasks.files.opening.os.stat", lambda *_, **__: before)
        for name in ("link", "pipe"):
            with pytest.raises(FileNotAllowed), opened_file(folder, name):
                pass


def test_a_reference_to_a_device_opens_nothing(root: Path, monkeypatch: pytest.MonkeyPatch):
    """To open one may be to do something with it."""
    os.mkfifo(root / "pipe")
    opened: list[object] = []
    really = os.open

    def noted(path: str, *args: int, **kwargs: int) -> int:
        opened.append(path)
        return really(path, *args, **kwargs)

    with opened_root(str(root), None) as folder:
        monkeypatch.setattr("kagura_tasks.files.opening.os.open", noted)
        with pytest.raises(FileNotAllowed, match="is a pipe"), opened_file(folder, "pipe"):
            pass
    assert opened == []


def test_only_allowed_roots_are_opened(root: Path):
    """A root has to be one of them, or below one; neither `..` nor a link is a way round."""
    write(root, "x/a.txt")
    (root.parent / "link").symlink_to(root)
    for path in (root, root / "x"):
        assert any(scan(path, allowed=[str(root)]))
    for path in (str(root.parent), "/etc", str(root) + "-other"):
        with pytest.raises(FileNotAllowed, match="KAGURA_TASKS_FILE_ROOTS"):
            list(scan(path, allowed=[str(root)]))
    with pytest.raises(FileNotAllowed), opened_root(f"{root}/../link/x", [str(root)]):
        pass
    with pytest.raises(FileError), opened_root(f"{root.parent}/link/x", [str(root.parent)]):
        pass


@pytest.mark.parametrize("name", ["nowhere", "a.txt"])
def test_a_root_that_is_no_folder_is_refused(root: Path, name: str):
    """An error, since there is nothing to tell of."""
    write(root, "a.txt")
    with pytest.raises(FileUnreadable, match="no such folder"):
        list(scan(root / name))


#: A name, how the file begins, what it is, and whether the name promised something else.
TYPES = [
    ("a.txt", b"text", "text/plain", False),
    ("a", b"text", "text/plain", False),
    ("a.py", b"import os", "text/x-python", False),
    ("a.MD", b"# Title", "text/markdown", False),
    ("a.csv", b"a,b", "text/csv", False),
    ("a", b"<!DOCTYPE html><p>", "text/html", False),
    ("a", b"\xef\xbb\xbf<html>", "text/html", False),
    ("a.txt", "größer".encode("latin-1"), "text/plain", False),
    ("a.txt", "größer".encode("utf-16"), "text/plain", False),
    ("a.txt", "a longer text without a mark".encode("utf-16-le"), "text/plain", False),
    ("a.log", b"a log with a stray \x01 in it", "text/plain", False),
    ("a.txt", b"a zero is no text\0", "application/octet-stream", True),
    ("a.txt", b"%PDF-1.7", "application/pdf", True),
    ("a", b"\n\n%PDF-1.7\n\x80\0", "application/pdf", False),
    ("a.pdf", b"no PDF", "text/plain", True),
    ("a.pdf", b"", "application/pdf", False),
    ("a", b"", "text/plain", False),
    ("a.txt", bytes(range(256)), "application/octet-stream", True),
    ("BM.txt", b"BM is how this text begins, and a picture too", "text/plain", False),
    ("a.jpg", files.picture(), "image/png", True),
    ("a.docx", files.docx(), DOCX, False),
    ("a.bin", files.docx(), DOCX, False),
    ("a.docx", files.xlsx(), XLSX, True),
    ("a.docx", files.locked_docx(), OLE, True),
    ("a.epub", files.epub(), "application/epub+zip", False),
    ("a.zip", files.archive({"a": "b"}), "application/zip", False),
    ("a.zip", files.archive({"word/a": "b"}), "application/zip", False),
    ("a.txt", b"{\\rtf1 text}", "application/rtf", True),
    ("a.wav", files.wav(), "audio/x-wav", False),
    ("a.mp4", files.mp4(), "video/mp4", False),
]


@pytest.mark.parametrize(("name", "head", "media_type", "differs"), TYPES, ids=files.short)
def test_the_content_decides_what_a_file_is(name: str, head: bytes, media_type: str, differs: bool):
    """The name decides among kinds of text alone; where it promised something else, that is said."""
    detected = detect(name, head[:8192])
    assert detected.media_type == media_type
    assert bool(detected.warning) == differs
