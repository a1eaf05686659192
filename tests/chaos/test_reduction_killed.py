"""A worker that is killed in the middle of a reduction in levels."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest

from kagura_tasks import LLMClient, Settings, signatures
from tests.support.chaos import worker_options
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Fleet


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_reduction_goes_on_where_it_was(settings: Settings, start_workers: Fleet, stub: StubServer, pool: str):
    """kill -9 in its last call: whoever gets the task next finds the partial answers, and pays for the last one."""
    word = uuid4().hex
    stub.script(text="short")
    stub.script(when="short; short", text="done", held=True)
    options = worker_options(pool, 4, environment={"KAGURA_TASKS_VISIBILITY_TIMEOUT_S": "2"})
    (first,) = start_workers(1, options, api_base=stub.base_url)
    client = LLMClient(settings)
    template = f"Sum up {word}: {{{{ parts | join('; ') }}}}"
    body = signatures.reduce(client.app, template, tenant=settings.tenant, context_tokens=300)
    parts = [f"part {number} " + "word " * 60 for number in range(12)]
    task = body.clone([parts]).apply_async()
    until(lambda: any("short; short" in prompt for prompt in asked(stub)), what="the last call")
    before = asked(stub)
    first.kill9()
    stub.release()
    start_workers(1, options, api_base=stub.base_url)
    assert client.result(task.id).get(timeout_s=60).text == "done"
    assert len(before) > 3
    assert Counter(asked(stub)) == Counter([*before, before[-1]])


def asked(stub: StubServer) -> list[str]:
    return [str(one["body"]["messages"][-1]["content"]) for one in stub.ledger()["requests"]]
