"""Dead letters: kept for a time, up to a number; sent again whole, once, and never instead of an answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from kagura_tasks.dead_letters import ATTEMPT_HEADER, DEAD_TTL_S, DEATHS_HEADER, DeadLetter, DeadLetters
from kagura_tasks.delivery_keys import COUNTS, DEAD
from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.settings import RedisUrl, Settings
from kagura_tasks.task_store import record_key
from tests.support.dead_letters import bury, kombu_message

GARBAGE = b"\xff\x00 no message"


@pytest.fixture
def letters(settings: Settings) -> DeadLetters:
    return DeadLetters(settings)


def the_one(letters: DeadLetters) -> DeadLetter:
    [letter] = letters.find(letters.ids())
    return letter


def test_what_is_buried_is_found(letters: DeadLetters, client_of_redis: redis.Redis):
    """All that is known of it, and the message byte for byte."""
    raw = kombu_message(task_id="some-task")
    letter_id = bury(client_of_redis, raw, queue="llm\x06\x163")
    letter = the_one(letters)
    assert (letter.id, letter.queue, letter.size_bytes) == (letter_id, "llm\x06\x163", len(raw))
    assert (letter.task, letter.task_id, letter.deaths) == ("kagura.complete", "some-task", 3)
    assert letter.reason == "its worker died 3 times"
    assert abs(letter.buried_at - client_of_redis.time()[0]) < 5
    assert letters.message(letter_id) == raw
    assert letters.count() == 1


def test_garbage_is_kept_byte_for_byte(letters: DeadLetters, client_of_redis: redis.Redis):
    """What is no message has neither task nor deaths."""
    letter_id = bury(client_of_redis, GARBAGE)
    letter = the_one(letters)
    assert (letter.task, letter.task_id, letter.deaths) == ("", "", 0)
    assert letters.message(letter_id) == GARBAGE


def test_the_newest_comes_first(letters: DeadLetters, client_of_redis: redis.Redis):
    """By when they were buried; asked for in pieces, too."""
    ids = [bury(client_of_redis, kombu_message()) for _ in range(3)]
    for second, one in enumerate(ids):
        client_of_redis.zincrby(DEAD, second * 1000, one)
    assert letters.ids() == ids[::-1]
    assert [letter.id for letter in letters.find([ids[2], "unknown", ids[0]])] == [ids[2], ids[0]]


def test_every_key_has_a_ttl(client_of_redis: redis.Redis):
    """Entries, their index and the counters go by themselves."""
    letter_id = bury(client_of_redis, kombu_message())
    for key in (DEAD, f"{DEAD}:{letter_id}", COUNTS):
        assert 0 < client_of_redis.ttl(key) <= DEAD_TTL_S


def test_what_is_too_old_is_not_counted(letters: DeadLetters, client_of_redis: redis.Redis):
    """An entry's own TTL ended; the index may name it until the next burial, which forgets it."""
    old = bury(client_of_redis, kombu_message())
    client_of_redis.delete(f"{DEAD}:{old}")
    client_of_redis.zadd(DEAD, {old: (client_of_redis.time()[0] - DEAD_TTL_S - 60) * 1000})
    assert (letters.ids(), letters.count()) == ([], 0)
    young = bury(client_of_redis, kombu_message())
    assert client_of_redis.zrange(DEAD, 0, -1) == [young.encode()]


def test_there_are_ten_thousand_at_most(letters: DeadLetters, client_of_redis: redis.Redis):
    """The oldest make room, and that is counted."""
    oldest = bury(client_of_redis, kombu_message())
    now_ms = client_of_redis.time()[0] * 1000
    client_of_redis.zadd(DEAD, {oldest: now_ms - 10_000})
    client_of_redis.zadd(DEAD, {f"filler-{n}": now_ms - 5_000 for n in range(9_999)})
    newest = bury(client_of_redis, kombu_message())
    assert letters.count() == 10_000
    assert letters.ids()[0] == newest
    assert not client_of_redis.exists(f"{DEAD}:{oldest}")
    assert client_of_redis.hgetall(COUNTS) == {b"buried": b"2", b"dead_letters_dropped": b"1"}


def test_a_letter_is_sent_again_with_no_past(letters: DeadLetters, client_of_redis: redis.Redis):
    """The same task under a new delivery tag, behind what waits; the letter is gone, and so is the failure."""
    raw = kombu_message(task_id="t", **{ATTEMPT_HEADER: 4, DEATHS_HEADER: 3, "eta": None})
    bury(client_of_redis, raw, queue="llm\x06\x163")
    client_of_redis.set(record_key("t"), json.dumps({"status": "FAILURE"}), ex=60)
    client_of_redis.lpush("llm\x06\x163", b"waits already")
    assert letters.retry(the_one(letters))
    sent, first = client_of_redis.lrange("llm\x06\x163", 0, -1)
    assert first == b"waits already"
    before, after = json.loads(raw), json.loads(sent)
    assert after["properties"].pop("delivery_tag") != before["properties"].pop("delivery_tag")
    del before["headers"][ATTEMPT_HEADER], before["headers"][DEATHS_HEADER]
    assert after == before
    assert (letters.ids(), client_of_redis.keys(f"{DEAD}*")) == ([], [])
    assert not client_of_redis.exists(record_key("t"))


@pytest.mark.parametrize("record", ['{"status": "SUCCESS", "result": {}}', '{"status": "REVOKED"}', "no record", "[]"])
def test_an_answer_is_never_forgotten(letters: DeadLetters, client_of_redis: redis.Redis, record: str):
    """It is paid for. What was cancelled stays cancelled, and what cannot be read is nobody's failure."""
    bury(client_of_redis, kombu_message(task_id="t"))
    client_of_redis.set(record_key("t"), record, ex=60)
    assert letters.retry(the_one(letters))
    assert client_of_redis.get(record_key("t")) == record.encode()


def test_garbage_is_sent_again_as_it_was(letters: DeadLetters, client_of_redis: redis.Redis):
    """Whoever asks for it gets it: perhaps other workers can read it."""
    bury(client_of_redis, GARBAGE)
    assert letters.retry(the_one(letters))
    assert client_of_redis.lrange("llm", 0, -1) == [GARBAGE]


def test_a_letter_is_sent_once(letters: DeadLetters, client_of_redis: redis.Redis):
    """Several operators at once: one of them sends it, the others are told that it is gone."""
    bury(client_of_redis, kombu_message())
    letter = the_one(letters)
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: letters.retry(letter), range(8)))
    assert sorted(sent) == [False] * 7 + [True]
    assert client_of_redis.llen("llm") == 1


def test_a_letter_outlives_a_killed_retry(
    letters: DeadLetters, client_of_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """Between the failure's end and the sending: the next retry sends it."""
    bury(client_of_redis, kombu_message(task_id="t"))
    client_of_redis.set(record_key("t"), json.dumps({"status": "FAILURE"}), ex=60)
    letter = the_one(letters)
    with monkeypatch.context() as killed:
        killed.setattr("kagura_tasks.dead_letters._as_new", lambda raw: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            letters.retry(letter)
    assert not client_of_redis.exists(record_key("t"))
    assert (letters.ids(), client_of_redis.llen("llm")) == ([letter.id], 0)
    assert letters.retry(letter)
    assert (letters.ids(), client_of_redis.llen("llm")) == ([], 1)


def test_a_letter_outlives_a_server_that_refuses_it(letters: DeadLetters, client_of_redis: redis.Redis):
    """What cannot be pushed is not taken from the dead letters."""
    bury(client_of_redis, kombu_message(), queue="taken")
    client_of_redis.set("taken", "by something else", ex=60)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        letters.retry(the_one(letters))
    assert letters.message(the_one(letters).id) is not None


def test_what_is_dropped_is_gone(letters: DeadLetters, client_of_redis: redis.Redis):
    """Index and entry; a second drop and a retry say that it was not there."""
    bury(client_of_redis, kombu_message())
    letter = the_one(letters)
    assert letters.drop(letter)
    assert client_of_redis.keys(f"{DEAD}*") == []
    assert not letters.drop(letter)
    assert not letters.retry(letter)
    assert letters.message(letter.id) is None


def test_a_broker_that_is_away_is_said(letters: DeadLetters):
    """Each method raises RedisUnreachable."""
    away = DeadLetters(Settings(redis_url=RedisUrl("redis://127.0.0.1:1/0"), redis_timeout_s=0.5))
    letter = DeadLetter("id", "", "llm", "", "t", 0, 0.0, 0)
    for ask in (away.ids, away.count, lambda: away.find(["id"]), lambda: away.retry(letter), lambda: away.drop(letter)):
        with pytest.raises(RedisUnreachable):
            ask()


def test_results_may_be_elsewhere(letters: DeadLetters, settings: Settings, client_of_redis: redis.Redis):
    """The failure is forgotten where results are; where these are away, nothing is sent."""
    bury(client_of_redis, kombu_message(task_id="t"))
    elsewhere = DeadLetters(settings.override(result_url="redis://127.0.0.1:1/0", redis_timeout_s=0.5))
    with pytest.raises(RedisUnreachable):
        elsewhere.retry(the_one(letters))
    assert (letters.count(), client_of_redis.llen("llm")) == (1, 0)
