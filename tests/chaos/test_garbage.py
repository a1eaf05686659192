"""What is on a queue and should not be there stops nobody, and is kept to be looked at."""

from __future__ import annotations

import json
import pickle
from base64 import b64encode
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import NotRegistered

from kagura_tasks.dead_letters import DeadLetters
from tests.support.chaos import Scene
from tests.support.dead_letters import kombu_message
from tests.support.wait import until

_SECRET = "hunter2"


def _changed(**changes: Any) -> bytes:
    """A message in kombu's form, but for these fields."""
    return json.dumps({**json.loads(kombu_message(_SECRET)), **changes}).encode()


def _with_info(info: object) -> bytes:
    message = json.loads(kombu_message(_SECRET))
    message["properties"]["delivery_info"] = info
    return json.dumps(message).encode()


#: Each with the reason for which it is a dead letter.
_GARBAGE = {
    "no JSON": (f"what is {_SECRET}?".encode(), "it is no message"),
    "nested too deep": (b"[" * 100_000, "it is no message"),
    "a number that only Lua reads": (kombu_message(_SECRET)[:-1] + b', "x": 0x10}', "it cannot be read"),
    "a line break in a text": (kombu_message(f"{_SECRET}XX").replace(b"XX", b"\n"), "it cannot be read"),
    "no UTF-8": (kombu_message(f"{_SECRET}XX").replace(b"XX", b"\xff"), "it cannot be read"),
    "addresses in a list": (_with_info([]), "it cannot be read"),
    "headers in a list": (_changed(headers=[_SECRET]), "it cannot be read"),
    "no task": (_changed(headers={"x": _SECRET}), "it is no task"),
    "an unknown task": (kombu_message(_SECRET, "an-id", task="team.unknown"), "no task of this name is registered"),
    "a pickle": (
        _changed(
            **{
                "body": b64encode(pickle.dumps(_SECRET)).decode(),
                "content-type": "application/x-python-serialize",
                "content-encoding": "binary",
            }
        ),
        "it is no valid task, or its content type is not accepted",
    ),
    "a yaml": (
        _changed(**{"body": b64encode(b"- hunter2").decode(), "content-type": "application/x-yaml"}),
        "it is no valid task, or its content type is not accepted",
    ),
    "a body of another language": (_changed(body=b64encode(b"\xff\xfe").decode()), "it cannot be decoded"),
    "a body that is no base64": (_changed(body=_SECRET), "it cannot be read"),
}


def test_garbage_stops_nobody(scene: Scene, prompt: str):
    """No worker dies, what stands around it is answered, each becomes a dead letter with a reason, and no log quotes
    it. What a worker held when it died can be garbage, too."""
    workers = scene.workers(1) + scene.workers(1, "prefork")
    for raw, _ in _GARBAGE.values():
        scene.redis.lpush("llm", raw)
        assert scene.client.complete(f"{prompt} {uuid4().hex}").text
    dead = DeadLetters(scene.settings)
    until(lambda: dead.count() >= len(_GARBAGE), 10, "a dead letter for each")
    buried = {dead.message(letter.id): letter for letter in dead.find(dead.ids())}
    for name, (raw, reason) in _GARBAGE.items():
        assert buried[raw].reason == reason, name
    scene.until_settled()
    assert all(worker.is_running for worker in workers)
    assert not any(_SECRET in worker.log for worker in workers)
    assert set(scene.calls().values()) == {1}
    assert len(scene.calls()) == len(_GARBAGE)


def test_who_asks_for_an_unknown_task_is_told(scene: Scene, prompt: str):
    """Its waiter gets NotRegistered, at once."""
    scene.workers(1)
    with pytest.raises(NotRegistered):
        scene.ask(prompt, "team.unknown").get(timeout=10)
    assert scene.calls() == {}


def test_unreadable_records_are_in_nobodys_way(scene: Scene, prompt: str):
    """Leases that ended, of records that cannot be read: they are dead letters, and a call beside them
    is made by another worker."""
    scene.stub.script(text="After all.")
    scene.stub.script(delay_s=60, times=1)
    (first,) = scene.workers(1)
    result = scene.client.submit(prompt)
    scene.until_called(prompt)
    first.kill9()
    records = {"a": b"no JSON", "b": b"[]", "c": b'[{"properties": {}}, "", ""]'}
    for tag, record in records.items():
        scene.redis.hset("unacked", tag, record)
        scene.redis.zadd("kagura:leases", {f"{tag} llm": 1})
    scene.workers(1)
    assert result.get(timeout_s=20).text == "After all."
    dead = DeadLetters(scene.settings)
    assert {dead.message(letter_id) for letter_id in dead.ids()} == set(records.values())
    scene.until_settled()
    assert scene.calls() == {prompt: 2}
