"""examples/fastapi_chat in a real browser: a real page, a real worker, only the model's words are scripted."""

from __future__ import annotations

from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import CHROMIUM, PROGRAMS
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.web import WebProcess

if CHROMIUM is None:
    pytest.skip(f"no browser here: none of {', '.join(PROGRAMS)} is on PATH", allow_module_level=True)

#: Long enough to reload a page, or to restart a server, while it is written: 2.4 s.
SLOWLY = {"chunks": 60, "chunk_delay_s": 0.04}


@pytest.fixture
def text() -> str:
    """An answer like no other."""
    return " ".join(f"{number} {uuid4().hex[:6]}" for number in range(60))


def ask(page: Page) -> None:
    """Ask what no other test asks."""
    page.get_by_label("Your message").fill(f"Say something about {uuid4().hex}.")
    page.get_by_label("Your message").press("Enter")


def shown(page: Page) -> str:
    """The last answer's text, as far as it is there."""
    return page.locator("li.assistant .text").last.text_content() or ""


def writing(page: Page, text: str) -> None:
    """Return when a part of the text is there, and not yet all."""
    until(lambda: shown(page), 20, "the first piece of text")
    assert text.startswith(shown(page))
    assert shown(page) != text


def whole(page: Page, text: str) -> None:
    """The text ends up whole, and there is one of it."""
    expect(page.get_by_role("status")).to_have_text("The answer is there.")
    assert shown(page) == text


def test_a_text_shows_while_it_is_written(page: Page, stub: StubServer, text: str):
    """It grows on the page before it ends; the next question goes with the conversation so far."""
    stub.script(text=text, chunks=60, chunk_delay_s=0.02)
    ask(page)
    writing(page, text)
    whole(page, text)
    stub.script(text="And more.")
    ask(page)
    whole(page, "And more.")
    asked = stub.ledger()["requests"][-1]["body"]["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == text


def test_a_reload_loses_and_repeats_nothing(page: Page, stub: StubServer, text: str):
    """In the middle of the text, and once more at its end."""
    stub.script(text=text, **SLOWLY)
    ask(page)
    writing(page, text)
    page.reload()
    writing(page, text)
    whole(page, text)
    page.reload()
    assert shown(page) == text
    assert page.locator("li").count() == 2
    assert stub.count() == 1


def test_stop_ends_the_call(page: Page, stub: StubServer, text: str):
    """The provider sees its connection closed, and the page says so; what was written stays."""
    stub.script(text=text, chunks=60, chunk_delay_s=0.2)
    ask(page)
    writing(page, text)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("li.assistant .note")).to_have_text("Stopped.")
    until(lambda: stub.ledger()["requests"][-1]["left"], 5, "the end of the provider's connection")
    assert text.startswith(shown(page))
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_two_tabs_read_the_same(page: Page, stub: StubServer, text: str):
    """Whoever opens the address while the answer is written sees all of it, from the beginning."""
    stub.script(text=text, **SLOWLY)
    ask(page)
    writing(page, text)
    other = page.context.new_page()
    other.goto(page.url)
    writing(other, text)
    whole(other, text)
    whole(page, text)
    assert stub.count() == 1


def test_a_restarted_server_is_found_again(
    page: Page, chat: WebProcess, stub: StubServer, text: str, problems: list[str]
):
    """The page says that it tries again, and goes on where it was."""
    stub.script(text=text, **SLOWLY)
    ask(page)
    writing(page, text)
    chat.kill()
    expect(page.locator("li.assistant .note")).to_have_text("The connection is lost: trying again.")
    chat.start()
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
    stub.script(text=text, chunks=60)
    stub.script(text="Void from here on.", chunks=3, cut_after=2, times=1)
    ask(page)
    whole(page, text)


def test_what_goes_wrong_is_said_in_words(page: Page, stub: StubServer):
    """A refused key, as the error says it. The next question can be asked."""
    stub.script(status=401)
    ask(page)
    expect(page.locator("li.assistant.failed .note")).to_contain_text("HTTP 401")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
