"""Reductions, and what canvas makes of errors: collected, raised, cancelled, too much for one prompt."""

from __future__ import annotations

from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from kagura_tasks import LLMClient, signatures
from kagura_tasks.errors import (
    ContextTooLong,
    InvalidRequest,
    NothingToReduce,
    PromptError,
    RequestRefused,
    TaskCancelled,
)
from kagura_tasks.plans import OnError
from kagura_tasks.schemas import Completion
from tests.support.canvas import LIST, TIMEOUT_S, Canvas
from tests.support.llm import StubServer
from tests.support.wait import until


def test_collected_errors_reach_the_body_which_runs_once(canvas: Canvas):
    """What succeeded and what failed, in order; a transient error is tried again before."""
    canvas_of_some = [
        canvas.complete("good", on_error="collect"),
        canvas.refused("bad", on_error="collect"),
        canvas.complete("late", on_error="collect"),
    ]
    canvas.stub.script(when=f"late {canvas.word}", status=500, times=1)
    template = "{{ parts | join('; ') }} of {{ count }}, {{ failed | map(attribute='type') | join }}"
    chord(canvas_of_some, canvas.reduce(template))().get(timeout=TIMEOUT_S)
    assert [prompt for prompt in canvas.asked() if ";" in prompt] == ["good; late of 3, RequestRefused"]
    assert sorted(canvas.asked())[:2] == ["bad", "good"]
    assert canvas.asked().count("late") == 2


def test_a_collected_error_is_an_envelope_with_the_typed_error(canvas: Canvas):
    """In a group, too; and the task's handle raises it."""
    done = group(canvas.complete("good", on_error="collect"), canvas.refused(on_error="collect"))()
    good, bad = done.get(timeout=TIMEOUT_S)
    assert Completion.model_validate(good).text == "good"
    assert bad["error"]["type"] == "RequestRefused"
    assert bad["error"]["args"][1:] == ["openai/gpt-4o-mini", 400]
    with pytest.raises(RequestRefused):
        canvas.client.result(done.children[1].id).get(timeout_s=TIMEOUT_S)


def test_a_request_that_no_worker_can_read_is_collected(canvas: Canvas):
    """What is wrong with the message itself is an error like any other."""
    broken = canvas.app.signature(
        "kagura.complete", args=[{"model": "m"}], kwargs={"on_error": "collect"}, queue="llm", immutable=True
    )
    (found,) = group([broken])().get(timeout=TIMEOUT_S)
    assert found["error"] == {"type": "InvalidRequest", "args": ["messages: Field required"]}


def test_when_all_have_failed_there_is_nothing_to_reduce(canvas: Canvas):
    """A typed error with the first one's name, and no call; collected itself where that is wanted."""
    header = [canvas.refused(name, on_error="collect") for name in ("bad", "worse")]
    with pytest.raises(NothingToReduce, match="all 2 have failed, the first with RequestRefused"):
        chord(header, canvas.reduce())().get(timeout=TIMEOUT_S)
    collected = chord(header, canvas.reduce(on_error="collect"))().get(timeout=TIMEOUT_S)
    assert collected == {"error": {"type": "NothingToReduce", "args": [2, "RequestRefused"]}}


@pytest.mark.parametrize("on_error", ["collect", "raise"])
def test_a_cancelled_header_does_not_hang_its_chord(canvas: Canvas, stub: StubServer, on_error: OnError):
    """Collected, it is one that failed, and the body runs. Otherwise the chord fails, as with any error."""
    held = canvas.complete("held", on_error=on_error)
    stub.script(when=f"held {canvas.word}", held=True)
    body = canvas.reduce("{{ parts | join }}, {{ failed | map(attribute='type') | join }}")
    done = chord([canvas.complete("good"), held], body)()
    until(lambda: "held" in canvas.asked(), what="the held call")
    canvas.client.cancel(done.parent[1].id)
    # By its id: a result that knows its parents looks at them first, and one of them was revoked.
    outcome = canvas.client.app.AsyncResult(done.id)
    if on_error == "collect":
        outcome.get(timeout=TIMEOUT_S)
        assert canvas.asked()[-1] == "good, TaskCancelled"
    else:
        with pytest.raises(ChordError, match="TaskCancelled"):
            outcome.get(timeout=TIMEOUT_S)


def test_a_reduction_is_cancelled_like_a_completion(canvas: Canvas, stub: StubServer):
    """Its call is closed."""
    first = canvas.complete("one")
    stub.script(when=f"held: one {canvas.word}", held=True)
    done = chain(first, canvas.reduce("held: " + LIST))()
    until(lambda: "held: one" in canvas.asked(), what="the held call")
    canvas.client.cancel(done.id)
    with pytest.raises(TaskCancelled):
        canvas.client.result(done.id).get(timeout_s=TIMEOUT_S)
    until(lambda: any(one["left"] for one in stub.ledger()["requests"]), what="a closed connection")


def test_a_reduction_in_levels_is_cancelled_with_all_its_calls(canvas: Canvas, stub: StubServer):
    """None goes on, none is begun."""
    stub.script(when=f"{canvas.word} level", held=True)
    parts = [f"part {number} " + "word " * 60 for number in range(12)]
    body = signatures.reduce(canvas.app, f"{canvas.word} level: {LIST}", tenant=canvas.tenant, context_tokens=300)
    task = body.clone([parts]).apply_async()
    begun = until(lambda: stub.ledger()["in_flight"] > 1 and stub.ledger()["in_flight"], what="partial calls")
    canvas.client.cancel(task.id)
    with pytest.raises(TaskCancelled):
        canvas.client.result(task.id).get(timeout_s=TIMEOUT_S)
    until(lambda: stub.ledger()["in_flight"] == 0, what="closed connections")
    canvas.complete("marker").apply_async().get(timeout=TIMEOUT_S)
    assert sum(one["left"] for one in stub.ledger()["requests"]) == stub.count() - 1 >= begun


def test_a_reduction_waits_in_the_queue_for_its_next_try(canvas: Canvas, stub: StubServer):
    """As a completion does: Celery's retry, with what came before, and the tries so far."""
    first = canvas.complete("one")
    stub.script(when=f"again: one {canvas.word}", status=429, headers={"Retry-After-Ms": "1200"}, times=1)
    done = chain(first, canvas.reduce("again: " + LIST, on_error="collect"))()
    found = Completion.model_validate(done.get(timeout=TIMEOUT_S))
    assert (found.attempts, canvas.asked()) == (2, ["one", "again: one", "again: one"])


def test_what_is_too_long_for_one_prompt_is_reduced_in_levels(canvas: Canvas, stub: StubServer):
    """Partial answers with the same template, until one prompt is left; each part is read once."""
    names = [f"part{number:02} " + "word " * 40 for number in range(20)]
    for name in names:
        canvas.complete(name)
    stub.script(when="Sum up", text="short")
    header = group(signatures.complete(canvas.app, f"{name} {canvas.word}", tenant=canvas.tenant) for name in names)
    done = chord(header, canvas.reduce("Sum up {{ count }}: " + LIST, context_tokens=500))()
    found = Completion.model_validate(done.get(timeout=TIMEOUT_S))
    sums = [prompt for prompt in canvas.asked() if prompt.startswith("Sum up 20")]
    assert found.text == "short"
    assert sum(prompt.count("part") for prompt in sums) == 20
    assert sums[-1] == "Sum up 20: " + "; ".join(["short"] * (len(sums) - 1))
    assert found.attempts == len(sums)


def test_a_single_part_that_is_too_long_is_an_error(canvas: Canvas):
    """Before any partial call is made."""
    header = [canvas.complete("short"), canvas.complete("long " * 500)]
    with pytest.raises(ContextTooLong, match="context_tokens"):
        chord(header, canvas.reduce(context_tokens=400))().get(timeout=TIMEOUT_S)
    assert len(canvas.asked()) == 2


def test_a_redelivered_reduction_gives_the_answer_that_is_stored(canvas: Canvas):
    """The same message again, after its result was stored: no call, and the same answer for whoever comes next."""
    body = canvas.reduce(use_cache=False).clone([{"text": "one", "model": "m", "finish_reason": "stop"}])
    task_id, where = uuid4().hex, f"told {canvas.word}"
    first = body.apply_async(task_id=task_id).get(timeout=TIMEOUT_S)
    body.apply_async(task_id=task_id, link=canvas.team("tell", where))
    (told,) = until(lambda: canvas.redis.lrange(where, 0, -1), what="the link")
    assert told.decode() == str(first)
    assert canvas.asked() == ["one"]


def test_a_reduction_that_cannot_work_is_said_where_it_is_made(client: LLMClient):
    """Another name, no template, a wrong option."""
    for template, options, error, words in [
        ("{{ rows }}", {}, PromptError, "rows"),
        ("{% for %}", {}, PromptError, "no valid template"),
        ("{{ parts }}", {"takes": "rows"}, PromptError, "parts"),
        ("{{ count }}", {"takes": "count"}, PromptError, "another variable"),
        ("{{ parts }}", {"context_tokens": 0}, InvalidRequest, "context_tokens"),
        ("{{ parts }}", {"model": "two words"}, InvalidRequest, "model"),
        ("{{ parts }}", {"on_error": "ignore"}, InvalidRequest, "collect"),
    ]:
        with pytest.raises(error, match=words):
            signatures.reduce(client.app, template, **options)
