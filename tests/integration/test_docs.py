"""What the documentation says is true: its code runs, its links lead somewhere, its references are what is generated.

A Python block with a comment in front of it is run on a real worker, with a scripted model. `<!-- run -->` is enough;
`<!-- run; the model says: TEXT -->` scripts the answers of that block; `run in examples` lets it import what is in
examples/, and `run inline` gives it the model's address instead of a worker. The blocks of a page that are run are one
program, top to bottom. Lines that begin with `# ->` are what the block prints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import redis

import kagura_tasks
from docs import generate
from kagura_tasks import LLMClient, Settings, errors, signatures
from kagura_tasks.connections import celery_url
from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.streaming import sse
from tests.support.llm import LlmServer
from tests.support.workers import NOT_INHERITED, ROOT, Fleet, Worker, WorkerOptions

PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]
EXAMPLES = ROOT / "examples"
_BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```python[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)

#: Runs a page's blocks, and prints what each of them printed.
RUNNER = """
import contextlib, io, json, sys
from tests.support.llm import LlmServer

model, names, printed = LlmServer(sys.argv[1]), {"__name__": "__main__"}, []
for block in json.load(sys.stdin):
    model.reset()
    if block["says"]:
        model.reply(block["says"])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block["code"], block["where"], "exec", dont_inherit=True), names)
    printed.append(out.getvalue().splitlines())
print(json.dumps(printed))
"""


@dataclass(frozen=True)
class Block:
    """A Python block: where it is, how it is marked, its code."""

    where: str
    mark: str
    code: str

    @property
    def says(self) -> str:
        """What the model answers."""
        return self.mark.partition("; the model says: ")[2]

    @property
    def expected(self) -> list[str]:
        """What it prints, where it says so."""
        return [line.removeprefix("# -> ") for line in self.code.splitlines() if line.startswith("# -> ")]


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page. Blank lines in front keep a traceback's line numbers those of the page."""
    text, found = page.read_text("utf-8"), []
    for match in _BLOCK.finditer(text):
        above = text.count("\n", 0, match.start("code"))
        found.append(Block(str(page.relative_to(ROOT)), match["mark"] or "", "\n" * above + match["code"]))
    return found


def name_of(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


def run_blocks(page: Path, mark: str, llm: LlmServer, environment: dict[str, str], folder: Path) -> None:
    """Run the page's blocks with this mark, and compare what they print."""
    marked = [block for block in blocks(page) if block.mark.partition(";")[0] == mark]
    program = json.dumps([{**asdict(block), "says": block.says} for block in marked])
    done = run_python(["-c", RUNNER, llm.url], environment, folder, program)
    for block, printed in zip(marked, json.loads(done), strict=True):
        assert not block.expected or printed == block.expected


def run_python(arguments: list[str], environment: dict[str, str], folder: Path, given: str = "") -> str:
    """What a Python process prints. It inherits nothing that is about us."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(EXAMPLES)])}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**inherited, **paths, **environment}, input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """What an application on the test's Redis and tenant has. No key."""
    return {"KAGURA_TASKS_REDIS_URL": str(settings.redis_url), "KAGURA_TASKS_TENANT": settings.tenant}


@pytest.fixture
def team_environment(settings: Settings, environment: dict[str, str]) -> dict[str, str]:
    """The same for Celery's own variables, which win over the addresses in examples/team_app.py."""
    url = celery_url(settings.redis_url)
    return {**environment, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}


def pages_with(mark: str) -> list[Path]:
    return [page for page in PAGES if any(block.mark.partition(";")[0] == mark for block in blocks(page))]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_every_block_compiles(page: Path):
    """Every Python block is Python; `await` may stand outside of a function."""
    for block in blocks(page):
        compile(block.code, block.where, "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def test_every_mark_is_known():
    """A slip in a mark must not make a block pass unseen."""
    known = {"", "run", "run inline", "run in examples", "from examples/team_app.py"}
    assert {block.mark.partition(";")[0] for page in PAGES for block in blocks(page)} <= known


@pytest.mark.parametrize("page", pages_with("run"), ids=name_of)
def test_a_page_runs(page: Path, worker: Worker, llm: LlmServer, environment: dict[str, str], tmp_path: Path):
    """The page's code does what the page says, on a real worker."""
    run_blocks(page, "run", llm, environment, tmp_path)


@pytest.mark.parametrize("page", pages_with("run inline"), ids=name_of)
def test_an_inline_page_runs(page: Path, llm: LlmServer, tmp_path: Path):
    """The same with neither Redis nor worker: the process has the key."""
    run_blocks(page, "run inline", llm, {"OPENAI_API_KEY": "test-key", "OPENAI_API_BASE": llm.base_url}, tmp_path)


def test_the_tutorial_and_its_example_run(
    start_workers: Fleet, llm: LlmServer, team_environment: dict[str, str], tmp_path: Path
):
    """A worker of examples/team_app.py serves that program, and the page that explains it."""
    options = WorkerOptions(
        app="team_app",
        queues="celery,llm,llm.batch",
        environment={**team_environment, "PYTHONPATH": str(EXAMPLES)},
    )
    start_workers(1, options)
    llm.reply("One sentence.")
    printed = run_python([str(EXAMPLES / "team_app.py")], team_environment, tmp_path)
    assert printed == "One sentence.\nOne sentence.\n"
    run_blocks(ROOT / "docs/tutorials/existing-celery-app.md", "run in examples", llm, team_environment, tmp_path)


def test_the_tutorial_shows_the_example():
    """What the page shows of the file is in the file."""
    shown = [block for page in PAGES for block in blocks(page) if block.mark.startswith("from ")]
    assert shown
    for block in shown:
        assert block.code.strip() in (ROOT / block.mark.removeprefix("from ")).read_text("utf-8")


def test_the_list_is_summarised_once(worker: Worker, llm: LlmServer, environment: dict[str, str], tmp_path: Path):
    """examples/summarise_list.py: the second run needs no worker, and says so."""
    llm.reply("Short.")
    first, second = (
        run_python([str(EXAMPLES / "summarise_list.py")], environment, tmp_path).splitlines() for _ in range(2)
    )
    assert (first, second) == (["called: Short."] * 3, ["remembered: Short."] * 3)
    assert llm.count() == 3


def test_the_folder_answers(worker: Worker, llm: LlmServer, environment: dict[str, str], tmp_path: Path):
    """examples/ask_a_folder.py: a file that tells nothing is no source; what a question holds is no template."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "sea.md").write_text("The sea is high at noon.")
    llm.reply("High at noon.", times=1)
    question = "When is the {{ sea }} high?"
    llm.reply("At noon.", times=1)
    asked = [str(EXAMPLES / "ask_a_folder.py"), str(folder), question]
    assert run_python(asked, environment, tmp_path) == "At noon.\nfrom: sea.md\n"
    (folder / "moon.md").write_text("The moon is round.")
    llm.reply("Nothing.", times=1)
    llm.reply("At noon.", times=1)
    assert run_python(asked, environment, tmp_path) == "At noon.\nfrom: sea.md\n"
    assert llm.count(question) == 4


def test_the_agent_answers_in_form(worker: Worker, llm: LlmServer, environment: dict[str, str], tmp_path: Path):
    """examples/typed_agent.py: an answer that does not fit is asked for again."""
    llm.reply("I liked it.", times=1)
    llm.reply(json.dumps({"mood": "mixed", "stars": 3, "complaints": ["charger"]}), times=1)
    printed = run_python([str(EXAMPLES / "typed_agent.py")], environment, tmp_path)
    assert printed == "mixed, 3 stars, complaints: charger\n"


def test_the_agent_uses_its_tools(start_workers: Fleet, llm: LlmServer, environment: dict[str, str], tmp_path: Path):
    """examples/agent_with_tools.py: the worker runs examples/shop_tools.py, and the second call remembers the first."""
    allowed = {"KAGURA_TASKS_TOOL_MODULES": "shop_tools", "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{ROOT}"}
    start_workers(1, WorkerOptions(environment=allowed))
    llm.call_tool("find_order", {"number": "A-17"}, times=1)
    llm.reply("It left on Monday.", times=1)
    llm.reply("Two days.", times=1)
    printed = run_python([str(EXAMPLES / "agent_with_tools.py")], environment, tmp_path)
    assert printed == "It left on Monday.\nTwo days.\n"
    told, remembered = (seen.body["messages"] for seen in sorted(llm.requests(), key=lambda seen: seen.started_at)[1:])
    assert json.loads(told[-1]["content"])["state"] == "sent"
    assert remembered[-2]["content"] == "It left on Monday."


def test_the_support_desk_routes(worker: Worker, llm: LlmServer, environment: dict[str, str], tmp_path: Path):
    """examples/router.py: each query goes to its agent, the follow-up with what was asked before."""
    llm.reply("Sunny.")
    printed = run_python([str(EXAMPLES / "router.py")], environment, tmp_path).splitlines()
    assert [line.strip() for line in printed[1::2]] == [
        "weather: Sunny.",
        "weather: Sunny.",
        "refunds: Sunny.",
        "anything_else: Sunny.",
    ]
    assert "Tokyo" in llm.requests("And in Kyoto?")[0].prompt


def test_the_settings_reference_is_what_is_generated():
    """`python docs/generate.py` writes it; nobody edits it by hand."""
    assert generate.PAGE.read_text("utf-8") == generate.settings_page()


def test_every_setting_has_one_reader():
    """The page lists each setting once, with whoever goes by it."""
    listed = Counter(name for names in generate.READERS.values() for name in names)
    assert listed == Counter(list(Settings.model_fields))


def test_the_api_reference_is_complete():
    """Every public name and every error has its place."""
    page = (ROOT / "docs/reference/api.md").read_text("utf-8")
    listed = set(re.findall(r"^::: .*\.(\w+)$", page, re.MULTILINE))
    classes = {name for name, one in vars(errors).items() if _is_error(one)}
    assert listed == {*kagura_tasks.__all__, *signatures.__all__, *sse.__all__, *classes, "install"} - {
        "errors",
        "signatures",
    }


def test_the_errors_page_has_the_whole_tree():
    """The tree is that of `kagura_tasks.errors`, and the table below it explains each class."""
    page = (ROOT / "docs/guides/errors-and-retries.md").read_text("utf-8")
    tree = (errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    assert tree in page
    roots = {"KaguraTasksError", "FileError", "StreamError", "MapError"}
    roots |= {"ProviderError", "TransientError", "PermanentError"}
    explained = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert explained == {name for name, one in vars(errors).items() if _is_error(one)} - roots


def _is_error(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, KaguraTasksError)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path):
    """A relative link names a file that is there, and a heading that is in it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        # Behind a picture's name it says for which colours the picture is.
        assert not anchor or target.suffix != ".md" or anchor in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path):
    """`make docs`; a reader's browser asks nobody else for anything."""
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", f"--config-file={ROOT / 'mkdocs.yml'}"]
    run_python([*command, f"--site-dir={tmp_path}"], {"NO_MKDOCS_2_WARNING": "1"}, ROOT)
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(ROOT.glob("docs/**/*.md")))  # and a page for what is not found
    for page in pages:
        loaded = re.findall(r'<(?:link|script|img|iframe)\b[^>]*?(?:href|src)="([^"]+)"', page.read_text("utf-8"))
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)]


def test_the_round_trips_are_those_of_the_page(
    settings: Settings, worker: Worker, llm: LlmServer, client_of_redis: redis.Redis
):
    """What the page lists is what Redis is sent for one call, by whatever names the call's task, message or key."""
    client = LLMClient(settings)
    client.complete("Warm up: now the scripts are known, and the connections open.")
    llm.delay(1.0)  # so that the caller is waiting when the answer comes
    prompt = "How many round trips?"
    key = client.cache.key_for(prompt, settings.default_model, tenant=settings.tenant)
    with client_of_redis.monitor() as monitor:
        task = client.submit(prompt)
        task.get(timeout_s=30)
        sent: list[str] = []
        names, tag = {key, task.id}, ""
        left, settled = False, False
        while not (left and settled):
            seen = monitor.next_command()
            command = str(seen["command"])
            if command.startswith("LPUSH") and task.id in command:
                tag = json.loads(command.split(" ", 2)[2])["properties"]["delivery_tag"]
                names.add(tag)
            # Leases are renewed, and cancelled tasks looked for, for all that a worker holds, whenever that is due.
            is_for_all = "kagura:taken: " in command or (command.startswith("MGET") and "kagura:epoch" not in command)
            is_ours = any(name in command for name in names) and seen["client_type"] != "lua" and not is_for_all
            if is_ours and "celeryev" not in command:
                sent.append(command.split()[0])
                left = left or sent[-1] == "UNSUBSCRIBE"
                settled = settled or (bool(tag) and command.rpartition(tag)[2].startswith(" llm"))
    assert Counter(sent) == _listed("caller") + _listed("worker")


def _listed(part: str) -> Counter[str]:
    """The commands in the page's table, but for those that name no single task: events, and the worker's fetching."""
    page = (ROOT / "docs/explanation/a-requests-way.md").read_text("utf-8")
    table = page.partition(f"<!-- counted: {part} -->\n")[2].partition("\n\n")[0]
    cells = [row.split("|")[3] for row in table.splitlines()[2:]]
    of_one_task = [cell for cell in cells if not any(word in cell for word in ("event", "fetch.lua"))]
    return Counter(word for cell in of_one_task for word in re.findall(r"`([A-Z]+)`", cell))
