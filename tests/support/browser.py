"""Chromium of this machine, without a window, driven by playwright; no browser is downloaded.

Where there is none, its tests are skipped and say so; in CI they fail, unless `.ci/run` said why it has none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from support.waiting import NET_S

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
NET_MS = NET_S * 1000
COMMITTED = Path(__file__).parents[2] / "docs" / "command.html"
# an address's fragment, and what playwright takes for a context -> that page, open
Open = Callable[..., Page]


def program() -> str:
    """Path of the browser; ends the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    reason = f"no Chromium on this machine (looked for {', '.join(_NAMES)}); on Debian: apt-get install chromium"
    if said := os.environ.get("NO_CHROMIUM"):
        pytest.skip(f"{reason}: {said}")
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running Chromium."""
    path = program()
    with sync_playwright() as playwright:
        # its sandbox does not work for a superuser; it is shown a file of ours alone
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=path, args=flags, timeout=NET_MS)
        try:
            yield chromium
        finally:
            chromium.close()


def patient(context: BrowserContext) -> Page:
    """A page of it that waits as long as every other test does."""
    context.set_default_timeout(NET_MS)
    return context.new_page()
