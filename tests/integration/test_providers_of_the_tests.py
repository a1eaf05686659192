"""What the other tests rely on: the scripted providers do what their scripts say, and count what they see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
import redis

from tests.support.llm import LlmServer, StubServer, server_process
from tests.support.redis_keys import keys_without_ttl
from tests.support.wait import until

Reply = tuple[int, dict[str, str], str]


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        yield session


async def ask(session: aiohttp.ClientSession, base_url: str, prompt: str = "hello", **fields: Any) -> Reply:
    """One request as LiteLLM would send it: status, headers and text."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
    async with session.post(f"{base_url}/chat/completions", json=body) as response:
        return response.status, dict(response.headers), await response.text()


async def test_llmock_answers_what_is_scripted_and_keeps_a_ledger(session: aiohttp.ClientSession, llm: LlmServer):
    """A 429 with its wait, then the reply; both are in the ledger, told apart by prompt."""
    llm.fail(429, retry_after_s=3)
    llm.reply("scripted", finish_reason="length")
    status, headers, _ = await ask(session, llm.base_url, "first")
    assert (status, headers["Retry-After"]) == (429, "3")
    status, _, text = await ask(session, llm.base_url, "second")
    assert status == 200
    assert '"scripted"' in text
    assert '"length"' in text
    assert [(one.prompt, one.status) for one in llm.requests()] == [("first", 429), ("second", 200)]
    assert llm.count("second") == 1


async def test_llmock_counts_what_is_in_flight(session: aiohttp.ClientSession, llm: LlmServer):
    """Twenty at once are a peak of twenty; a later one does not add to it."""
    llm.delay(1.5, times=20)
    await asyncio.gather(*(ask(session, llm.base_url) for _ in range(20)))
    await ask(session, llm.base_url)
    assert (llm.count(), llm.peak()) == (21, 20)


@pytest.mark.parametrize("fault", ["disconnect", "malformed", "truncate"])
async def test_llmock_breaks_streams(session: aiohttp.ClientSession, llm: LlmServer, fault: str):
    """A stream that is cut, ends early, or holds a chunk that is no JSON."""
    llm.reply("one two three four five six")
    getattr(llm, fault)(after_chunks=2)
    try:
        _, _, text = await ask(session, llm.base_url, stream=True)
    except aiohttp.ClientPayloadError:
        assert fault == "disconnect"
    else:
        assert fault != "disconnect"
        assert ("[DONE]" in text) == (fault == "malformed")
    _, _, whole = await ask(session, llm.base_url, stream=True)
    assert "[DONE]" in whole


async def test_the_stub_chooses_by_prompt(session: aiohttp.ClientSession, stub: StubServer):
    """Each script counts for prompts that contain its text, so often as it says; the newest counts first."""
    stub.script(text="for all")
    stub.script(when="special", text="for one", times=1)
    texts = [(await ask(session, stub.base_url, prompt))[2] for prompt in ("special", "special", "other")]
    assert ["for one" in text for text in texts] == [True, False, False]
    assert "for all" in texts[2]


async def test_the_stub_gives_answers_that_llmock_cannot(session: aiohttp.ClientSession, stub: StubServer):
    """No finish reason, no content, other fields, a body that is no JSON, a header, a dropped connection."""
    stub.script(finish_reason=None, text=None, fields={"usage": None}, times=1)
    _, _, text = await ask(session, stub.base_url)
    assert all(part in text for part in ('"finish_reason": null', '"content": null', '"usage": null'))
    stub.script(status=503, body="<html>", headers={"Retry-After": "1"}, times=1)
    status, headers, text = await ask(session, stub.base_url)
    assert (status, headers["Retry-After"], text) == (503, "1", "<html>")
    stub.script(cut_after=0, times=1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await ask(session, stub.base_url)


async def test_the_stub_streams(session: aiohttp.ClientSession, stub: StubServer):
    """A streamed answer comes in pieces, with usage where it is asked for; a cut one breaks off."""
    stub.script(text="abcdef", chunks=3)
    _, _, text = await ask(session, stub.base_url, stream=True, stream_options={"include_usage": True})
    assert [part in text for part in ('"ab"', '"cd"', '"ef"', '"usage"', "[DONE]")] == [True] * 5
    stub.script(text="abcdef", chunks=3, cut_after=2)
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(session, stub.base_url, stream=True)


async def test_the_stub_holds_answers_until_it_is_told(session: aiohttp.ClientSession, stub: StubServer):
    """A held request is in flight until the release; what comes after it is answered at once."""
    stub.script(held=True)
    asking = asyncio.create_task(ask(session, stub.base_url))
    await asyncio.to_thread(until, lambda: stub.ledger()["in_flight"] == 1)
    assert not asking.done()
    await asyncio.to_thread(stub.release)
    assert [(await answer)[0] for answer in (asking, ask(session, stub.base_url))] == [200, 200]


async def test_the_stub_sees_who_leaves(session: aiohttp.ClientSession, stub: StubServer):
    """A client that closes its connection is in the ledger at once, and no longer in flight."""
    stub.script(delay_s=60)
    asking = asyncio.create_task(ask(session, stub.base_url))
    await asyncio.to_thread(until, lambda: stub.ledger()["in_flight"] == 1)
    asking.cancel()
    await asyncio.to_thread(until, lambda: stub.ledger()["in_flight"] == 0)
    (seen,) = stub.ledger()["requests"]
    assert seen["left"]
    assert seen["ended_at"] - seen["started_at"] < 30


def test_a_server_ends_with_whoever_started_it():
    """A test run that is killed leaves no server behind."""
    code = (
        "import sys, time; from tests.support.llm import server_process\n"
        "with server_process('provider.py') as url: print(url, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith(b"http://127.0.0.1:")
        (server,) = psutil.Process(owner.pid).children()
        owner.kill()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, what="the server's end")


def test_a_server_that_does_not_start_is_told():
    """Not a hanging test, but a failed one."""
    with pytest.raises(AssertionError, match=r"no_such\.py did not start"), server_process("no_such.py"):
        pass


def test_the_guard_sees_a_key_without_a_ttl(client_of_redis: redis.Redis):
    """Kombu's own keys may stay, ours may not."""
    client_of_redis.set("kagura:forgotten", 1)
    client_of_redis.set("kagura:remembered", 1, ex=60)
    client_of_redis.rpush("llm\x06\x163", "a message")
    client_of_redis.sadd("_kombu.binding.llm", "a queue")
    assert keys_without_ttl(client_of_redis) == ["kagura:forgotten"]
    client_of_redis.flushdb()
