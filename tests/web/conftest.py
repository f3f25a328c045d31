"""A headless Chromium that is there already; every test here skips where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WEB = Path(__file__).parents[2] / "web"
AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"
TIMEOUT_MS = 30_000
"""For whatever a test waits for on the page; machines of test runs are slow."""


@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    """One for a module: while it runs, Playwright keeps an event loop, in which no other test could run its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-web")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium: install Debian's `chromium`, or set CHROMIUM to one's path")
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def tab(browser: Browser) -> Generator[Page, None, None]:
    """A page with a store of its own. No script may fail in it, and the content policy may refuse nothing."""
    context = browser.new_context(viewport={"width": 1100, "height": 800}, reduced_motion="reduce", locale="en-GB")
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if _is_violation(message.text) else None)
    try:
        yield page
    finally:
        context.close()
    assert failures == []


def _is_violation(text: str) -> bool:
    return "Content Security Policy" in text


def axe_violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it is: rules and the elements that break them."""
    if not AXE.exists():
        pytest.skip("axe-core is not there: make web")
    page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found["violations"]]
