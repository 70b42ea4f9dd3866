"""One Chromium for the tests of a file; a page of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from support import browser
from support.browser import COMMITTED, Open


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # no longer than a file: while playwright runs, nothing else in this process can run an event loop
    with browser.browser() as running:
        yield running


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """The committed page in a browser of nobody; what it asks of a network or complains about fails the test."""
    contexts: list[Any] = []
    asked: list[str] = []
    complaints: list[str] = []

    def opened(fragment: str = "", *, width: int = 1280, **more: Any) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **more)
        contexts.append(context)
        page = browser.patient(context)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(COMMITTED.as_uri() + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.partition("#")[0] for url in asked} <= {COMMITTED.as_uri()}
