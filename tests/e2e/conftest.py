"""A real browser, and the example of a chat for it to show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.web import WebProcess
from tests.support.workers import ROOT, Fleet

#: What a Chromium is called on PATH, and the one that is there.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, PROGRAMS) if path), None)

#: It shows pages of this machine only, and asks nobody else for anything.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless, with a profile of its own. Ended with the module: while it is there, no other event loop can run."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chat(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """examples/fastapi_chat, served by uvicorn, on the fleet's Redis."""
    environment = {
        "KAGURA_TASKS_REDIS_URL": str(fleet.redis_url),
        "KAGURA_TASKS_TENANT": f"test-{uuid4().hex[:8]}",
    }
    log = tmp_path_factory.mktemp("chat") / "uvicorn.log"
    server = WebProcess(ROOT / "examples/fastapi_chat", environment, log)
    yield server
    server.kill()


@pytest.fixture
def problems() -> list[str]:
    """What a page complained about: the test fails, unless it takes the complaints out of here."""
    return []


@pytest.fixture
def page(browser: Browser, chat: WebProcess, problems: list[str]) -> Iterator[Page]:
    """The chat on the screen of a phone, in a context of its own: no other test's conversation is there."""
    with browser.new_context(viewport={"width": 360, "height": 640}) as context:
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(chat.url)
        yield page
    assert problems == []
