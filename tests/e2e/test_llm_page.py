"""The LLM page of Flower in a real browser, on a running system.

KAGURA_TEST_SCREENSHOTS=1 renews the pictures in the documentation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from kagura_tasks.client import LLMClient
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import Settings
from tests.e2e.conftest import CHROMIUM, PROGRAMS
from tests.support.flower import LOGIN, FlowerProcess, metric
from tests.support.llm import StubServer
from tests.support.metrics import an_hour_of_work
from tests.support.workers import ROOT, Fleet, WorkerOptions

if CHROMIUM is None:
    pytest.skip(f"no browser here: none of {', '.join(PROGRAMS)} is on PATH", allow_module_level=True)

IMAGES = ROOT / "docs/images"
RENEWS = bool(os.environ.get("KAGURA_TEST_SCREENSHOTS"))


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A Redis with an hour of work behind it."""
    with EmbeddedRedis() as server:
        an_hour_of_work(server.url)
        yield server


@pytest.fixture(scope="module")
def flower(
    server: EmbeddedRedis, stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlowerProcess]:
    """Flower, and a worker that goes on. They start side by side."""
    folder = tmp_path_factory.mktemp("page")
    fleet, flower = Fleet(server.url, stub_server.base_url, folder), FlowerProcess(server.url, folder / "flower.log")
    try:
        fleet(1, WorkerOptions(concurrency=8, arguments=("-E",)))
        yield flower.ready()
    finally:
        fleet.stop()
        flower.stop()


@pytest.fixture
def problems() -> list[str]:
    """What a page complained about, and what it asked others than Flower for."""
    return []


@pytest.fixture(params=["light", "dark"])
def page(
    request: pytest.FixtureRequest, browser: Browser, flower: FlowerProcess, problems: list[str]
) -> Iterator[Page]:
    """The LLM page as somebody sees it whose screen is light, or dark."""
    name, password = LOGIN.split(":")
    how = {"color_scheme": request.param, "http_credentials": {"username": name, "password": password}}
    with browser.new_context(viewport={"width": 1280, "height": 900}, **how) as context:
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(flower.url) else problems.append(asked.url))
        page.goto(f"{flower.url}/")
        page.get_by_role("link", name="LLM").click()
        yield page
    assert problems == []


def brightness(page: Page) -> float:
    """Of the page's background, from 0 to 255."""
    return float(
        page.evaluate("Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3))")
    )


def test_the_page_from_the_navigation(page: Page, request: pytest.FixtureRequest):
    """It is reached from any page, has the numbers and the charts, asks nobody else, and fits the screen's colours."""
    expect(page.get_by_role("link", name="LLM")).to_have_attribute("aria-current", "page")
    expect(page.locator("section[data-name=cost_usd] .kg-number")).to_contain_text("$")
    expect(page.locator("svg[role=img]")).to_have_count(6)
    assert all(page.locator(f"#kg-by-{name} tr[data-label=All]").count() == 1 for name in ("model", "tenant", "task"))
    scheme = request.node.callspec.params["page"]
    assert (brightness(page) > 128) == (scheme == "light")
    if RENEWS:
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=IMAGES / f"llm-page-{scheme}.png", full_page=True)


def test_the_numbers_renew_themselves(page: Page, server: EmbeddedRedis):
    """Without a reload: a call that is made while somebody watches is on the page seconds later."""
    calls = page.locator("#kg-by-tenant tr[data-label=watched] td[data-name=calls]")
    before = int(calls.get_attribute("data-value") or 0) if calls.count() else 0
    LLMClient(Settings(redis_url=server.url, tenant="watched")).complete(f"Hello {time.monotonic()}.")
    expect(calls).to_have_attribute("data-value", str(before + 1), timeout=20_000)


def test_without_redis_the_page_says_so(browser: Browser, stub_server: StubServer, tmp_path: Path):
    """So does /metrics; both are well again by themselves when Redis is."""
    with EmbeddedRedis() as server:
        flower = FlowerProcess(server.url, tmp_path / "flower.log")
        try:
            flower.ready()
            name, password = LOGIN.split(":")
            with browser.new_context(http_credentials={"username": name, "password": password}) as context:
                page = context.new_page()
                page.goto(f"{flower.url}/llm")
                expect(page.locator("section[data-name=calls_per_s]")).to_be_visible()
                server.kill()
                expect(page.locator("#kg-redis-down")).to_contain_text("tries again", timeout=20_000)
                assert metric(flower.get("/metrics"), "kagura_up") == 0
                server.restart()
                expect(page.locator("section[data-name=calls_per_s]")).to_be_visible(timeout=20_000)
                assert metric(flower.get("/metrics"), "kagura_up") == 1
        finally:
            flower.stop()
