"""Celery's canvas over LLM calls: what its users know holds, on the threads pool and on the asyncio pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest
from celery import chain, chord, group
from celery.canvas import chunks
from celery.exceptions import ChordError

from kagura_tasks.errors import NothingToReduce, RequestRefused
from kagura_tasks.schemas import Completion
from tests.support.canvas import LIST, TIMEOUT_S, Canvas, texts
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import NOT_INHERITED, ROOT, Fleet


def test_a_group_gives_the_answers_in_order(canvas: Canvas):
    """Completions as JSON; an empty group gives none."""
    names = [f"item {number}" for number in range(20)]
    assert texts(group(canvas.complete(name) for name in names)().get(timeout=TIMEOUT_S)) == names
    assert group([], app=canvas.app)().get(timeout=TIMEOUT_S) == []


def test_a_chord_reduces_what_its_header_gave(canvas: Canvas):
    """The body's prompt is rendered on the worker, over the answers in order; its call is made once."""
    header = group(canvas.complete(name) for name in ("one", "two", "three"))
    done = chord(header, canvas.reduce("{{ count }}: " + LIST))()
    assert Completion.model_validate(done.get(timeout=TIMEOUT_S)).finish_reason == "stop"
    assert [prompt for prompt in canvas.asked() if ";" in prompt] == ["3: one; two; three"]


def test_a_chord_of_one_and_a_chain_are_the_same_to_the_body(canvas: Canvas):
    """Celery makes a chain of a chord with one task: the body gets one result, and `parts` is a list all the same."""
    chord([canvas.complete("one")], canvas.reduce("of {{ count }}: " + LIST))().get(timeout=TIMEOUT_S)
    chain(canvas.complete("two"), canvas.reduce("of {{ count }}: " + LIST))().get(timeout=TIMEOUT_S)
    assert [prompt for prompt in canvas.asked() if prompt.startswith("of")] == ["of 1: one", "of 1: two"]


def test_a_chord_without_a_header_has_nothing_to_reduce(canvas: Canvas):
    """The body runs, and says so."""
    with pytest.raises(NothingToReduce, match="nothing came before"):
        chord(group([]), canvas.reduce(), app=canvas.app)().get(timeout=TIMEOUT_S)


def test_in_a_chain_a_fixed_prompt_ignores_what_came_before(canvas: Canvas):
    """A completion is immutable: the previous result does not break its arguments."""
    done = chain(canvas.complete("first"), canvas.complete("second"))()
    assert Completion.model_validate(done.get(timeout=TIMEOUT_S)).text == "second"
    assert canvas.asked() == ["first", "second"]


def test_a_group_in_a_chain_becomes_a_chord(canvas: Canvas):
    """Before it, behind it, and around it."""
    middle = group(canvas.complete(name) for name in ("a", "b"))
    done = chain(canvas.complete("first"), middle, canvas.reduce())()
    done.get(timeout=TIMEOUT_S)
    assert canvas.asked()[-1] == "a; b"


def test_chords_in_a_group_each_have_their_body(canvas: Canvas):
    """Nested canvas gives nested work, each body once."""
    chords = [
        chord([canvas.complete(f"{name}{number}") for number in range(3)], canvas.reduce()) for name in ("x", "y")
    ]
    group(chords)().get(timeout=TIMEOUT_S)
    assert sorted(prompt for prompt in canvas.asked() if ";" in prompt) == ["x0; x1; x2", "y0; y1; y2"]


def test_a_chord_in_a_chord(canvas: Canvas):
    """The outer body gets the inner bodies' answers."""
    inner = [chord([canvas.complete(f"{name}{number}") for number in (0, 1)], canvas.reduce()) for name in "pq"]
    canvas.stub.script(when="p0; p1", text="P")
    canvas.stub.script(when="q0; q1", text="Q")
    chord(inner, canvas.reduce("outer " + LIST))().get(timeout=TIMEOUT_S)
    assert [prompt for prompt in canvas.asked() if prompt.startswith("outer")] == ["outer P; Q"]


def test_chunks_ask_for_several_with_one_message(canvas: Canvas):
    """Celery's chunks call the task as a function, one after the other; `reduce` reads their lists of lists."""
    requests = [canvas.complete(f"chunk {number}").args[0] for number in range(5)]
    task = canvas.app.signature("kagura.complete")
    split = chunks(task, [(request,) for request in requests], 2, app=canvas.app)
    found = split.group()().get(timeout=TIMEOUT_S)
    assert [texts(some) for some in found] == [["chunk 0", "chunk 1"], ["chunk 2", "chunk 3"], ["chunk 4"]]
    chord(split.group(), canvas.reduce())().get(timeout=TIMEOUT_S)
    assert canvas.asked()[-1] == "chunk 0; chunk 1; chunk 2; chunk 3; chunk 4"


def test_in_a_chunk_a_long_wait_is_sat_out(canvas: Canvas, stub: StubServer):
    """A call that was made as a function cannot go back to the queue: what its neighbours paid for is not lost."""
    requests = [canvas.complete(name).args[0] for name in ("quick", "slow")]
    stub.script(when=f"slow {canvas.word}", status=429, headers={"Retry-After-Ms": "1200"}, times=1)
    split = chunks(canvas.app.signature("kagura.complete"), [(one,) for one in requests], 2, app=canvas.app)
    assert [texts(some) for some in split.group()().get(timeout=TIMEOUT_S)] == [["quick", "slow"]]
    assert canvas.asked() == ["quick", "slow", "slow"]


def test_a_failed_header_fails_the_chord_and_calls_its_errback(canvas: Canvas):
    """Celery's default: the body never runs, whoever waits gets the error, and link_error is told."""
    where = f"told {canvas.word}"
    body = canvas.reduce().on_error(canvas.team("tell_of_error", where))
    done = chord([canvas.complete("good"), canvas.refused()], body)()
    # Its parents' own error, where it looks at them before it is told of the chord's.
    with pytest.raises((RequestRefused, ChordError)):
        done.get(timeout=TIMEOUT_S)
    with pytest.raises(ChordError, match="RequestRefused"):
        canvas.app.AsyncResult(done.id).get(timeout=TIMEOUT_S)
    (told,) = until(lambda: canvas.redis.lrange(where, 0, -1), what="the errback")
    assert "ChordError" in told.decode()
    assert canvas.word not in told.decode()
    assert sorted(canvas.asked()) == ["bad", "good"]


def test_signatures_survive_json(canvas: Canvas):
    """Stored, sent elsewhere and read back, a canvas is the same."""
    header = group(canvas.complete(name, on_error="collect") for name in ("a", "b"))
    stored = json.dumps(chord(header, canvas.reduce()))
    canvas.app.signature(json.loads(stored))().get(timeout=TIMEOUT_S)
    assert canvas.asked()[-1] == "a; b"


def test_links_are_called(canvas: Canvas):
    """`link` with the completion, `link_error` with the typed error; neither shows a prompt."""
    linked, failed = f"linked {canvas.word}", f"failed {canvas.word}"
    canvas.complete("good").apply_async(link=canvas.team("tell", linked))
    canvas.refused().apply_async(link_error=canvas.team("tell_of_error", failed))
    (told,) = until(lambda: canvas.redis.lrange(linked, 0, -1), what="the link")
    assert "'text': 'good'" in told.decode()
    (told,) = until(lambda: canvas.redis.lrange(failed, 0, -1), what="the errback")
    assert "RequestRefused" in told.decode()


def test_tasks_of_a_teams_own_mix_with_ours(canvas: Canvas):
    """A number from their task is a part; our completion is what their task gets."""
    chord([canvas.team("add", 1, 2), canvas.complete("three")], canvas.reduce())().get(timeout=TIMEOUT_S)
    assert canvas.asked()[-1] == "3; three"


def test_a_program_that_imports_no_task_sends_a_chord(canvas: Canvas, stub: StubServer, tmp_path: Path):
    """Another process, which knows signatures and nothing of workers or LiteLLM."""
    good, bad = f"good {canvas.word}", f"bad {canvas.word}"
    stub.script(when=good, text=f"fine {canvas.word}")
    stub.script(when=bad, status=400)
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
    given = json.dumps({"prompts": [good, bad], "tenant": canvas.tenant})
    environment = {
        **inherited,
        "KAGURA_TASKS_REDIS_URL": str(canvas.client.settings.redis_url),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.support.canvas_app"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["result"]["finish_reason"], printed["imported"]) == ("stop", [])
    assert any(f"2 answers: fine {canvas.word}. 1 failed." in prompt for prompt in canvas.asked())


def test_no_prompt_and_no_answer_is_seen_in_logs_and_events(canvas: Canvas, canvas_workers: Fleet):
    """Header, body, errors and retries of a canvas show neither, in the worker's log and in Celery's events."""
    with canvas.redis.pubsub() as events:
        events.psubscribe("*celeryev*")
        header = [canvas.complete(canvas.word), canvas.refused(on_error="collect")]
        chord(header, canvas.reduce())().get(timeout=TIMEOUT_S)
        failed = chord([canvas.complete(canvas.word), canvas.refused()], canvas.reduce())()
        with pytest.raises(ChordError):
            canvas.app.AsyncResult(failed.id).get(timeout=TIMEOUT_S)
        seen = ""
        while seen.count("task-succeeded") < 4 or "task-failed" not in seen:
            frame = events.get_message(timeout=30)
            assert frame is not None, f"no event within 30 s; so far: {seen}"
            if isinstance(frame["data"], bytes):
                seen += b64decode(json.loads(frame["data"])["body"]).decode()
    assert "kagura.reduce" in seen
    assert canvas.word not in seen
    assert canvas.word not in canvas_workers.workers[0].log
