"""What a worker says of each task: a line of JSON, and to OpenTelemetry where that is configured. Never a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from kagura_tasks import signatures
from kagura_tasks.app import create_app
from kagura_tasks.client import LLMClient
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.settings import Settings
from tests.support.llm import StubServer
from tests.support.results import collect_results
from tests.support.wait import until
from tests.support.workers import Fleet, Worker, WorkerOptions

MODEL = "openai/gpt-4o-mini"
USED = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, "prompt_tokens_details": {"cached_tokens": 8}}

Fields = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A worker that is traced, and where its spans and metrics go."""

    settings: Settings
    stub: StubServer
    worker: Worker
    traces: Path

    def lines(self, task_id: str) -> list[Fields]:
        """The worker's lines about a task."""
        told = [json.loads(line) for line in self.worker.log.splitlines() if line.startswith("{")]
        return [line for line in told if line["id"] == task_id]

    def spans(self, trace_id: str) -> list[Fields]:
        """The spans of a trace, by name."""
        told = [json.loads(line) for line in (self.traces / "spans").read_text().splitlines()]
        spans = [span for span in told if span["context"]["trace_id"] == trace_id]
        return sorted(spans, key=lambda span: str(span["name"]))

    def told(self) -> str:
        """All that the worker wrote anywhere."""
        return self.worker.log + "".join(path.read_text() for path in self.traces.iterdir())


@pytest.fixture(scope="module")
def scene(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Children of a pool that end after two tasks: what they had to tell must be away by then."""
    folder, traces = tmp_path_factory.mktemp("worker"), tmp_path_factory.mktemp("traces")
    with EmbeddedRedis() as server:
        fleet = Fleet(server.url, stub_server.base_url, folder)
        options = WorkerOptions(
            "prefork",
            concurrency=2,
            app="tests.support.traced_app",
            environment={"TRACES": str(traces)},
            arguments=("--max-tasks-per-child=2",),
        )
        try:
            (worker,) = fleet(1, options)
            settings = Settings(redis_url=server.url, default_model=MODEL, tenant="acme")
            yield Scene(settings, stub_server, worker, traces)
        finally:
            collect_results()
            fleet.stop()


@pytest.fixture
def parent(scene: Scene) -> Iterator[SpanContext]:
    """The span that the caller is in."""
    scene.stub.reset()
    scene.stub.script(fields={"usage": USED})
    ids = uuid4().int, uuid4().int & (2**64 - 1)
    context = SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with trace.use_span(NonRecordingSpan(context)):
        yield context


def hexed(context: SpanContext) -> str:
    return f"0x{context.trace_id:032x}"


def test_a_line_of_json_for_each_task(scene: Scene, parent: SpanContext):
    """Ids, numbers and times; the failed try is there by its error's name, and no word of prompt or answer."""
    canary = f"canary-{uuid4().hex}"
    scene.stub.script(status=503, times=1)
    scene.stub.script(when=canary, text=f"{canary}, too", fields={"usage": USED})
    result = LLMClient(scene.settings).submit(canary)
    assert canary in result.get(timeout_s=30).text
    (line,) = until(lambda: scene.lines(result.id), what="the line")
    exact = {
        "event": "task",
        "task": "kagura.complete",
        "id": result.id,
        "root_id": result.id,
        "tenant": "acme",
        "model": MODEL,
        "outcome": "done",
        "cached": False,
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "cached_prompt_tokens": 8,
        "cost_usd": round(12 * 0.15e-6 + 8 * 0.075e-6 + 5 * 0.6e-6, 12),
    }
    assert {name: line[name] for name in exact} == exact
    assert 0 < line["calls_s"] <= line["duration_s"]
    assert line["queue_wait_s"] >= 0
    assert canary not in scene.told()


def test_a_failed_task_has_a_line(scene: Scene, parent: SpanContext):
    """It says so, and names the error."""
    scene.stub.script(status=401)
    result = LLMClient(scene.settings).submit(f"Refuse {uuid4().hex}.")
    with pytest.raises(KaguraTasksError):
        result.get(timeout_s=30)
    (line,) = until(lambda: scene.lines(result.id), what="the line")
    assert (line["outcome"], line["errors"]) == ("failed", ["AuthenticationFailed"])


def test_spans_join_the_callers_trace(scene: Scene, parent: SpanContext):
    """One of the task, and in it one of each try, though the child of the pool ends right after it."""
    scene.stub.script(status=503, times=1)
    result = LLMClient(scene.settings).submit(f"Try {uuid4().hex}.")
    result.get(timeout_s=30)
    failed, answered, task = until(lambda: len(spans := scene.spans(hexed(parent))) == 3 and spans, what="three spans")
    assert task["name"] == "kagura.complete"
    assert task["parent_id"] == f"0x{parent.span_id:016x}"
    assert task["attributes"]["messaging.message.id"] == result.id
    assert {failed["parent_id"], answered["parent_id"]} == {task["context"]["span_id"]}
    assert {failed["name"], answered["name"]} == {f"chat {MODEL}"}
    by_status = {span["status"]["status_code"]: span["attributes"] for span in (failed, answered)}
    assert by_status["ERROR"]["error.type"] == "ProviderUnavailable"
    assert by_status["UNSET"]["gen_ai.usage.input_tokens"] == 20
    assert by_status["UNSET"]["gen_ai.provider.name"] == "openai"
    assert "gen_ai.client.token.usage" in until((scene.traces / "metrics").read_text, what="metrics")


def test_what_a_task_sends_stays_in_its_trace(scene: Scene, parent: SpanContext):
    """A worker sends the second task of a chain."""
    app = create_app(scene.settings)
    asked = [signatures.complete(app, f"Say {uuid4().hex}.", model=MODEL, tenant="acme") for _ in range(2)]
    chain(*asked).apply_async().get(timeout=30)
    names = until(lambda: len(spans := scene.spans(hexed(parent))) == 4 and [span["name"] for span in spans])
    assert names == [f"chat {MODEL}"] * 2 + ["kagura.complete"] * 2


def test_each_item_of_a_map_has_a_trace_of_its_own(scene: Scene, parent: SpanContext):
    """Thousands of spans in one trace help nobody: it is linked instead."""
    assert all(one.error is None for one in LLMClient(scene.settings).map([f"Item {uuid4().hex}." for _ in range(3)]))

    def linked() -> list[Fields]:
        told = [json.loads(line) for line in (scene.traces / "spans").read_text().splitlines()]
        of_ours = [span for span in told if span["links"]]
        return [span for span in of_ours if span["links"][0]["context"]["trace_id"] == hexed(parent)]

    spans = until(lambda: len(found := linked()) == 3 and found, what="a span for each item")
    assert len({span["context"]["trace_id"] for span in spans}) == 3
    assert scene.spans(hexed(parent)) == []
