"""Tasks that kill whoever runs them."""

from __future__ import annotations

import pytest

from kagura_tasks.dead_letters import DeadLetter, DeadLetters
from kagura_tasks.errors import TaskPoisoned
from tests.support.chaos import Scene, answers
from tests.support.wait import until


def test_a_poison_is_buried_and_its_neighbours_live(scene: Scene, prompt: str):
    """On threads each of its deaths is the whole worker's. After the third it is a dead letter, its waiter is told, and
    all that ran or waited beside it is answered, though it was there at each death. It can be sent again."""
    scene.stub.script(delay_s=1.0)
    scene.stub.script(when="poison", delay_s=0.2)
    # First, so that after two deaths it is tried before those that it took along.
    poison = scene.ask(f"{prompt} poison", "team.poison")
    innocents = [scene.client.submit(f"{prompt} {n}", use_cache=False) for n in range(4)]
    _supervise(scene, 3)
    with pytest.raises(TaskPoisoned):
        poison.get(timeout=20)
    assert len(answers(innocents, timeout_s=40)) == 4
    (letter,) = _letters(scene)
    assert (letter.task, letter.task_id, letter.deaths) == ("team.poison", poison.id, 3)
    assert "died 3 times" in letter.reason
    scene.until_settled()
    assert scene.calls() == {f"{prompt} poison": 3, **{f"{prompt} {n}": 3 for n in range(4)}}

    assert DeadLetters(scene.settings).retry(letter)
    scene.until_called(f"{prompt} poison", times=4)
    assert DeadLetters(scene.settings).count() == 0


def test_on_prefork_a_poison_kills_only_children(scene: Scene, prompt: str):
    """The worker lives, its other children go on, and the third dead child makes it a dead letter within seconds."""
    scene.stub.script(delay_s=1.0)
    (worker,) = scene.workers(1, "prefork", concurrency=3)
    poison = scene.ask(f"{prompt} poison", "team.poison")
    innocents = [scene.client.submit(f"{prompt} {n}") for n in range(4)]
    with pytest.raises(TaskPoisoned):
        poison.get(timeout=30)
    assert len(answers(innocents)) == 4
    assert worker.is_running
    (letter,) = _letters(scene)
    assert (letter.task, letter.deaths) == ("team.poison", 3)
    scene.until_settled()
    assert scene.calls() == {f"{prompt} poison": 3, **{f"{prompt} {n}": 1 for n in range(4)}}

    assert DeadLetters(scene.settings).retry(letter)
    scene.until_called(f"{prompt} poison", times=4)


def _supervise(scene: Scene, deaths: int) -> None:
    """Start a worker on threads, and another as often as it dies, until so many died."""
    for _ in range(deaths):
        (worker,) = scene.workers(1, "threads", concurrency=6)
        until(lambda worker=worker: not worker.is_running, 40, "a dead worker")
    scene.workers(1, "threads", concurrency=6)


def _letters(scene: Scene) -> list[DeadLetter]:
    dead = DeadLetters(scene.settings)
    return until(lambda: dead.find(dead.ids()), what="a dead letter")
