"""examples/fastapi_chat in a real browser: a real page, a real worker, only the model's words are scripted."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import CHROMIUM, PROGRAMS
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.web import WebProcess

if CHROMIUM is None:
    pytest.skip(f"no browser here: none of {', '.join(PROGRAMS)} is on PATH", allow_module_level=True)

#: The model stops in the middle, until the test has seen what it wants to see.
HALF = {"chunks": 20, "chunk_delay_s": 0.01, "stall_after": 10}


@pytest.fixture
def text() -> str:
    """An answer like no other."""
    return " ".join(f"{uuid4().hex[:8]}" for _ in range(60)) + "."


def ask(page: Page) -> None:
    """Ask what no other test asks."""
    page.get_by_label("Your message").fill(f"Say something about {uuid4().hex}.")
    page.get_by_label("Your message").press("Enter")


def shown(page: Page) -> str:
    """The last answer's text, as far as it is there."""
    return page.locator("li.assistant .text").last.text_content() or ""


def writing(page: Page, text: str) -> None:
    """Return when the first half of the text is there, and not the second."""
    until(lambda: shown(page) == text[: len(text) // 2], 20, "half of the text")


def whole(page: Page, text: str) -> None:
    """The text ends up whole, and there is one of it."""
    expect(page.get_by_role("status")).to_have_text("The answer is there.")
    assert shown(page) == text


def test_a_text_shows_while_it_is_written(page: Page, stub: StubServer, text: str):
    """It grows on the page before it ends; the next question goes with the conversation so far."""
    stub.script(text=text, **HALF)
    ask(page)
    writing(page, text)
    stub.release()
    whole(page, text)
    stub.script(text="And more.")
    ask(page)
    whole(page, "And more.")
    asked = stub.ledger()["requests"][-1]["body"]["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == text


def test_a_reload_loses_and_repeats_nothing(page: Page, stub: StubServer, text: str):
    """In the middle of the text, and once more at its end."""
    stub.script(text=text, **HALF)
    ask(page)
    writing(page, text)
    page.reload()
    writing(page, text)
    stub.release()
    whole(page, text)
    page.reload()
    assert shown(page) == text
    assert page.locator("li").count() == 2
    assert stub.count() == 1


def test_stop_ends_the_call(page: Page, stub: StubServer, text: str):
    """The provider sees its connection closed, and the page says so; what was written stays."""
    stub.script(text=text, **HALF)
    ask(page)
    writing(page, text)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("li.assistant .note")).to_have_text("Stopped.")
    until(lambda: stub.ledger()["requests"][-1]["left"], 5, "the end of the provider's connection")
    assert shown(page) == text[: len(text) // 2]
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_two_tabs_read_the_same(page: Page, stub: StubServer, text: str):
    """Whoever opens the address while the answer is written sees all of it, from the beginning."""
    stub.script(text=text, **HALF)
    ask(page)
    writing(page, text)
    other = page.context.new_page()
    other.goto(page.url)
    writing(other, text)
    stub.release()
    whole(other, text)
    whole(page, text)
    assert stub.count() == 1


def test_a_restarted_server_is_found_again(
    page: Page, chat: WebProcess, stub: StubServer, text: str, problems: list[str]
):
    """The page says that it tries again, and goes on where it was."""
    stub.script(text=text, **HALF)
    ask(page)
    writing(page, text)
    chat.kill()
    expect(page.locator("li.assistant .note")).to_have_text("The connection is lost: trying again.")
    chat.start()
    stub.release()
    whole(page, text)
    lost = [one for one in problems if "ERR_CONNECTION_REFUSED" in one or "ERR_INCOMPLETE_CHUNKED" in one]
    assert problems == lost
    problems.clear()


def test_what_the_model_writes_is_text(page: Page, stub: StubServer):
    """Markup is shown and never run; a long word does not widen the page."""
    markup = "<img src=x onerror=alert(1)><script>alert(1)</script><b>bold</b>&amp; " + "long" * 100
    stub.script(text=markup, chunks=3)
    page.on("dialog", lambda dialog: pytest.fail(f"the page said {dialog.message}"))
    ask(page)
    whole(page, markup)
    assert page.locator("li b, li img, li script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_text_that_became_void_goes(page: Page, stub: StubServer, text: str):
    """The provider cuts the connection: the page drops what it has, says so, and ends with one whole answer."""
    stub.script(text=text)
    stub.script(text="Void.", chunks=5, stall_after=4, cut_after=5, times=1)
    ask(page)
    until(lambda: shown(page) == "Void", 20, "a part of the text")
    stub.release()
    whole(page, text)
    assert stub.count() == 2


def test_what_goes_wrong_is_said_in_words(page: Page, stub: StubServer):
    """A refused key, as the error says it. The next question can be asked."""
    stub.script(status=401)
    ask(page)
    expect(page.locator("li.assistant.failed .note")).to_contain_text("HTTP 401")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def open_answer(page: Page, chat: WebProcess, *events: dict[str, Any], times: int | None = None) -> None:
    """Show the answer of an address, whose stream is this one; `times`: later requests stay without an answer."""
    frames = [f"id: {event['seq']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n" for event in events]
    body = "".join(["retry: 50\n\n", *frames])
    page.route("**/streams/*", lambda route: None)
    page.route("**/streams/*", lambda route: route.fulfill(content_type="text/event-stream", body=body), times=times)
    page.goto(f"{chat.url}#{uuid4()}")
    page.reload()


def test_a_lost_worker_is_said_in_words(page: Page, chat: WebProcess):
    """What is there stays; the page waits for a worker, and says so also while it connects anew."""
    start, chunk = {"kind": "start", "seq": 1}, {"kind": "chunk", "seq": 2, "text": "One"}
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_answer(page, chat, start, chunk, {"kind": "lost", "seq": 2}, times=1)
    until(lambda: shown(page) == "One" and sum("/streams/" in url for url in asked) == 2, 20, "a second connection")
    expect(page.locator("li.assistant .note")).to_contain_text("No worker is running.")


def test_missing_text_is_fetched_at_the_end(page: Page, chat: WebProcess):
    """The result has what the stream has not any more."""
    page.route("**/answers/*", lambda route: route.fulfill(json={"text": "One two three"}))
    chunk = {"kind": "chunk", "seq": 6, "text": " three"}
    open_answer(page, chat, {"kind": "gap", "seq": 5, "first": 1}, chunk, {"kind": "done", "seq": 7})
    whole(page, "One two three")


@pytest.mark.parametrize("has_result", [True, False])
def test_an_expired_stream_is_said_in_words(has_result: bool, page: Page, chat: WebProcess, problems: list[str]):
    """Where the result is still there it is shown."""
    page.route("**/answers/*", lambda route: route.fulfill(json={"text": "One two three"}))
    refused = {"error": {"message": "no stream", "has_result": has_result}}
    page.route("**/streams/*", lambda route: route.fulfill(status=404, json=refused))
    page.goto(f"{chat.url}#{uuid4()}")
    page.reload()
    if has_result:
        whole(page, "One two three")
    else:
        expect(page.locator("li.assistant.failed .note")).to_have_text("This answer is not kept any more.")
    assert all("404" in problem for problem in problems)
    problems.clear()
