"""The same code in this process, and the RFC's functions."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from kagura_tasks import LLMCache, LLMClient, Settings, call_llm, functions, get_llm_cache, set_llm_cache
from kagura_tasks.app import create_app
from kagura_tasks.errors import RequestRefused, ResultTimeout, TaskCancelled
from tests.support.llm import LlmServer, StubServer
from tests.support.workers import ROOT, Fleet, Worker


@pytest.fixture
def openai_is_the_stub(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> StubServer:
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("OPENAI_API_BASE", stub.base_url)
    return stub


@pytest.mark.litellm
# LiteLLM's own filter ends with the test in which it was imported.
@pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")
def test_inline_needs_neither_redis_nor_worker(openai_is_the_stub: StubServer, prompt: str):
    """execution="inline": the call is made here, remembered here, and shared by those who ask at the same time."""
    stub = openai_is_the_stub
    stub.script(text="Here.", delay_s=0.3)
    client = LLMClient(Settings(execution="inline", redis_url="redis://127.0.0.1:1/0"))
    results = [client.submit(prompt) for _ in range(5)]
    assert {result.get(timeout_s=90).text for result in results} == {"Here."}  # the first one imports LiteLLM
    again = client.complete(prompt)
    assert (again.text, again.cached, stub.count()) == ("Here.", True, 1)
    assert asyncio.run(client.acomplete(prompt)).cached
    stub.script(status=400, body="{}")
    with pytest.raises(RequestRefused):
        client.complete(f"{prompt} no")
    stub.script(delay_s=30)
    slow = client.submit(f"{prompt} slow")
    with pytest.raises(ResultTimeout):
        slow.get(timeout_s=0.1)
    slow.cancel()
    with pytest.raises(TaskCancelled):
        slow.get(timeout_s=30)


def test_an_inline_program_ends_in_silence(openai_is_the_stub: StubServer):
    """Its connections to the provider are closed before the interpreter is: nobody complains of them."""
    code = "import kagura_tasks; print(kagura_tasks.LLMClient(execution='inline').complete('Hello.').finish_reason)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("stop", "")


async def test_call_llm_is_the_rfcs_function(
    worker: Worker, llm: LlmServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, prompt: str
):
    """Text in, text out, over the default client, which the environment describes; its cache can be looked into."""
    monkeypatch.setenv("KAGURA_TASKS_REDIS_URL", redis_url)
    monkeypatch.setattr(functions, "_default_client", None)
    llm.reply("An answer.")
    assert await call_llm(prompt, temperature=0.5) == "An answer."
    assert await call_llm(prompt, temperature=0.5) == "An answer."
    assert llm.count(prompt) == 1
    assert await call_llm(prompt, use_cache=False, temperature=0.5) == "An answer."
    assert llm.count(prompt) == 2
    key = get_llm_cache().key_for(prompt, "gpt-4o-mini", temperature=0.5)
    assert await get_llm_cache().get(key)


async def test_a_cache_of_ones_own_is_asked_first_and_told_each_answer(
    worker: Worker, llm: LlmServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, prompt: str
):
    """set_llm_cache: answers are kept in it as well, and what was put into it by hand is an answer."""
    monkeypatch.setenv("KAGURA_TASKS_REDIS_URL", redis_url)
    monkeypatch.setattr(functions, "_default_client", None)
    cache = LLMCache("memory")
    set_llm_cache(cache)
    await call_llm(prompt, model="openai/gpt-x")
    assert await cache.get(cache.key_for(prompt, "openai/gpt-x"))
    await cache.set(cache.key_for("by hand", "gpt-4o-mini"), "canned")
    assert await call_llm("by hand") == "canned"
    assert llm.count("by hand") == 0


def test_importing_the_package_imports_no_provider_and_is_quick():
    """An application that only sends requests does not pay for LiteLLM, Flower or the worker's wing."""
    code = (
        "import time; start = time.perf_counter(); import kagura_tasks; took = time.perf_counter() - start\n"
        "import sys; from kagura_tasks import *\n"
        "heavy = {'litellm', 'flower', 'kagura_tasks.worker', 'kagura_tasks.providers', 'openai', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)), took < 0.5)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[] True"


def test_every_public_name_can_be_imported():
    """`__all__` is what there is, and what is listed loads."""
    import kagura_tasks

    assert all(getattr(kagura_tasks, name) is not None for name in kagura_tasks.__all__)
    assert set(kagura_tasks.__all__) <= set(dir(kagura_tasks))
    with pytest.raises(AttributeError):
        _ = kagura_tasks.no_such_name


OWN_APP = """
from celery import Celery
from kagura_tasks.worker import install

app = Celery("team", broker={broker!r}, backend={broker!r})
app.conf.update(task_default_queue="team", task_acks_late=False, worker_prefetch_multiplier=4)
before = dict(app.conf)
install(app)
assert dict(app.conf) == before, "install changed a setting"

@app.task
def add(a, b):
    return a + b
"""


def test_a_teams_own_app_gains_it_with_one_call(
    settings: Settings, redis_url: str, start_workers: Fleet, llm: LlmServer, prompt: str, tmp_path, monkeypatch
):
    """install(app) adds the tasks and touches no setting; the team's own tasks go on beside them."""
    from celery import Celery

    from kagura_tasks.connections import celery_url
    from tests.support.workers import WorkerOptions

    (tmp_path / "team_app.py").write_text(OWN_APP.format(broker=celery_url(settings.redis_url)))
    options = WorkerOptions(app="team_app", queues="team,llm", environment={"PYTHONPATH": str(tmp_path)})
    start_workers(1, options)
    team = Celery("team", broker=celery_url(settings.redis_url), backend=celery_url(settings.redis_url))
    client = LLMClient(Settings(tenant=settings.tenant), app=team)
    llm.reply("For the team.")
    sent = client.submit(prompt, use_cache=False)
    assert sent.get(timeout_s=30).text == "For the team."
    assert team.send_task("team_app.add", args=(2, 3), queue="team").get(timeout=30) == 5
    assert create_app(settings).conf.accept_content == ["json"]
