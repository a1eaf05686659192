"""The two guards of `make lint`, run as the programs they are, on folders made for the purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def run_guard(name: str, folder: Path) -> tuple[int, list[str]]:
    """A guard's exit code, and the lines it printed."""
    # -I: a planted sitecustomize.py must be found, not run; nothing of the caller's environment plays a part.
    command = [sys.executable, "-I", str(PROJECT / "tools" / f"{name}.py"), str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def check_length(folder: Path) -> tuple[int, list[str]]:
    return run_guard("check_file_length", folder)


def check_environment(folder: Path) -> tuple[int, list[str]]:
    return run_guard("check_environment", folder)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """An empty git repository that ignores what is in ignored/."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("ignored/\n")
    return tmp_path


@pytest.mark.parametrize("name", ["long.py", "script.lua", "folder/long.py"])
def test_a_file_of_401_lines_is_found(clone: Path, name: str):
    """A source file over 400 lines fails, and the line says which file, how long, and what to do."""
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("\n" * 401)
    code, lines = check_length(clone)
    assert code == 1
    assert lines == [f"{name}: 401 lines, 400 at most: split it by what its parts are for"]


def test_a_last_line_without_a_newline_counts(clone: Path):
    """400 newlines and one more line are 401 lines, as in an editor."""
    (clone / "long.py").write_text("\n" * 400 + "pass")
    assert check_length(clone)[0] == 1


def test_a_file_of_400_lines_passes(clone: Path):
    """The limit itself is allowed."""
    (clone / "full.py").write_text("\n" * 400)
    assert check_length(clone) == (0, [])


def test_only_source_files_of_the_repository_count(clone: Path):
    """Long text, and what git ignores (a virtual environment), is nobody's concern."""
    (clone / "requirements.lock").write_text("\n" * 401)
    (clone / "ignored").mkdir()
    (clone / "ignored" / "long.py").write_text("\n" * 401)
    assert check_length(clone) == (0, [])


def test_a_tracked_file_counts_even_if_git_ignores_its_folder(clone: Path):
    """What is committed is part of the project, whatever .gitignore says."""
    (clone / "ignored").mkdir()
    (clone / "ignored" / "long.py").write_text("\n" * 401)
    subprocess.run(["git", "-C", str(clone), "add", "--force", "ignored/long.py"], check=True)
    assert check_length(clone)[0] == 1


def test_a_deleted_file_is_no_error(clone: Path):
    """A file that git still lists and that is gone from the work tree is passed over."""
    (clone / "gone.py").write_text("\n" * 401)
    subprocess.run(["git", "-C", str(clone), "add", "gone.py"], check=True)
    (clone / "gone.py").unlink()
    assert check_length(clone) == (0, [])


def test_a_folder_without_git_is_said_plainly(tmp_path: Path):
    """Nothing was checked, so the guard does not pass: one line says why."""
    code, lines = check_length(tmp_path)
    assert code == 2
    assert len(lines) == 1
    assert "run this in a clone" in lines[0]


def test_site_packages_of_packages_alone_passes(tmp_path: Path):
    """Modules, and metadata of a sound release, are what belongs there."""
    (tmp_path / "module.py").write_text("import os\n")
    install(tmp_path, "litellm", "1.106.2")
    assert check_environment(tmp_path) == (0, [])


@pytest.mark.parametrize("content", ["import os; os.system('true')\n", "/somewhere/else\n", ""])
def test_an_unknown_pth_file_is_found(tmp_path: Path, content: str):
    """A .pth file of no known package fails, whatever is in it."""
    (tmp_path / "cook.pth").write_text(content)
    code, lines = check_environment(tmp_path)
    assert code == 1
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / "cook.pth")]


def test_the_code_that_setuptools_brings_passes(tmp_path: Path):
    """Known code, byte for byte, under its known name: every venv of Python 3.11 has it."""
    (tmp_path / "distutils-precedence.pth").write_text(DISTUTILS_PRECEDENCE)
    assert check_environment(tmp_path) == (0, [])


def test_a_known_name_does_not_excuse_other_code(tmp_path: Path):
    """One line more in a file that is known by its name, and it is found."""
    (tmp_path / "distutils-precedence.pth").write_text(DISTUTILS_PRECEDENCE + "import cook\n")
    code, lines = check_environment(tmp_path)
    assert code == 1
    assert "not the file known by that name" in lines[0]


def test_known_code_under_another_name_is_found(tmp_path: Path):
    """The name is part of what is known."""
    (tmp_path / "other.pth").write_text(DISTUTILS_PRECEDENCE)
    assert check_environment(tmp_path)[0] == 1


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_editable_install_of_this_project_passes(tmp_path: Path, end: str):
    """Its .pth names the checkout, in one line."""
    (tmp_path / "_kagura_tasks.pth").write_text(f"{PROJECT}{end}")
    assert check_environment(tmp_path) == (0, [])


#: Code to Python; but read as a path that starts at the checkout, it leads there.
CODE_LIKE_A_PATH = "import cook # /.."


@pytest.mark.parametrize(
    "content", [f"{PROJECT}\nimport cook\n", f"{PROJECT}\n/elsewhere\n", "/elsewhere\n", "", CODE_LIKE_A_PATH]
)
def test_the_editable_install_may_name_nothing_but_the_checkout(tmp_path: Path, content: str):
    """A second line, another folder or code in the project's own .pth is found."""
    (tmp_path / "_kagura_tasks.pth").write_text(content)
    code, lines = check_environment(tmp_path)
    assert code == 1
    assert f"it may only say {PROJECT}" in lines[0]


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py", "sitecustomize.pyc", "usercustomize.abi3.so"])
def test_a_module_that_python_imports_at_start_is_found(tmp_path: Path, name: str):
    """Each form of a start-up module fails."""
    (tmp_path / name).write_bytes(b"")
    code, lines = check_environment(tmp_path)
    assert code == 1
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / name)]


def test_a_start_up_package_is_found(tmp_path: Path):
    """A folder is as good a module as a file."""
    (tmp_path / "sitecustomize").mkdir()
    assert check_environment(tmp_path)[0] == 1


@pytest.mark.parametrize("name", ["litellm", "litellm_core"])
@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0"])
def test_a_malicious_release_is_found(tmp_path: Path, name: str, version: str):
    """An installed release that is known to steal fails by its version."""
    install(tmp_path, name, version)
    code, lines = check_environment(tmp_path)
    assert code == 1
    assert len(lines) == 1
    assert f"{version} is a malicious release" in lines[0]


def test_another_package_of_that_version_passes(tmp_path: Path):
    """1.82.7 of something else says nothing about it."""
    install(tmp_path, "boto", "1.82.7")
    assert check_environment(tmp_path) == (0, [])


def test_every_finding_has_its_line(tmp_path: Path):
    """One finding does not hide the next."""
    (tmp_path / "cook.pth").write_text("import cook\n")
    (tmp_path / "sitecustomize.py").write_text("")
    install(tmp_path, "litellm", "1.107.0")
    code, lines = check_environment(tmp_path)
    assert code == 1
    assert len(lines) == 3


DISTUTILS_PRECEDENCE = (
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim(); \n"
)


def install(site_packages: Path, name: str, version: str) -> None:
    """What an installer leaves behind, as far as a look at the version needs it."""
    folder = site_packages / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
