"""Pictures in the page's chat: chosen, pasted and dropped; sent as they are; where the model takes some."""

from __future__ import annotations

import base64
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shoal.core.sequences.pictures import Pictures
from shoal.model.vision.pixels import PictureSource, decode_picture
from shoal.vision.sources import read_source
from tests.model.tiny_vision import picture, picture_file
from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import RunningServer, run_server
from tests.server.web.plans import page as page_options
from tests.web.conftest import axe_violations

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASTE = """([name, kind, text]) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.querySelector(kind === "paste" ? ".prompt textarea" : ".prompt");
  const init = { bubbles: true, cancelable: true };
  const event = kind === "paste" ? new ClipboardEvent("paste", { ...init, clipboardData: data })
                                 : new DragEvent("drop", { ...init, dataTransfer: data });
  target.dispatchEvent(event);
}"""


@dataclass(frozen=True)
class Placed:
    prompt_ids: tuple[int, ...]


@dataclass
class Seen:
    """Keeps what came; the engine answers as if it had seen it. Implements `PicturePrompts`."""

    calls: list[list[np.ndarray]] = field(default_factory=list[list[np.ndarray]])

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def place(self, prompt: str, sources: Sequence[PictureSource]) -> Placed:
        files = [read_source(source, allows_remote=False) for source in sources]
        self.calls.append([decode_picture(file, "a picture") for file in files])
        return Placed(tuple(ids("seen")))

    async def compute(self, placed: Placed, /) -> Pictures:
        return Pictures(pictures=())


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def running(seen: Seen) -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=lambda request: ids("a fish")), page=page_options(), pictures=seen) as server:
        yield server


def ask(tab: Page, text: str, count: int) -> None:
    """And wait for the answer, which is the `count`-th."""
    tab.get_by_label("Message").fill(text)
    tab.get_by_role("button", name="Send").click()
    tab.get_by_role("article", name="Answer", exact=True).nth(count - 1).wait_for()


def test_pictures_are_chosen_pasted_and_dropped(tab: Page, running: RunningServer, seen: Seen, tmp_path: Path) -> None:
    files = [picture_file(picture(seed)) for seed in range(3)]
    (tmp_path / "chosen.png").write_bytes(files[0])
    tab.goto(f"{running.url}/#chat")
    tab.get_by_label("Pictures", exact=True).set_input_files(tmp_path / "chosen.png")
    shown = tab.locator(".prompt .thumbnails img")
    for count, kind in enumerate(("paste", "drop"), start=1):
        shown.nth(count - 1).wait_for()
        tab.evaluate(PASTE, [f"{kind}.png", kind, base64.b64encode(files[count]).decode()])
    shown.nth(2).wait_for()
    assert axe_violations(tab) == []
    tab.get_by_role("button", name="Remove picture 2").click()
    ask(tab, "What swims there?", 1)
    assert shown.count() == 0
    (first,) = seen.calls
    for pixels, seed in zip(first, (0, 2), strict=True):
        np.testing.assert_array_equal(pixels, picture(seed))
    ask(tab, "And where?", 2)
    assert [len(call) for call in seen.calls] == [2, 2], "a later turn sends them again"
    tab.reload()
    tab.get_by_text("a picture that was not kept").nth(1).wait_for()
    ask(tab, "Still there?", 3)
    assert len(seen.calls) == 2, "what is not there any more is not sent"


def test_what_is_no_picture_is_said(tab: Page, running: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"nothing of the kind")
    tab.goto(f"{running.url}/#chat")
    tab.get_by_label("Pictures", exact=True).set_input_files(tmp_path / "no.png")
    tab.get_by_role("alert").get_by_text("no.png is not a picture that the browser can show").wait_for()
    assert tab.locator(".prompt .thumbnails").count() == 0


def test_a_model_of_texts_is_offered_none(tab: Page) -> None:
    with run_server(FakeEngine(reply=lambda request: ids("hi")), page=page_options()) as server:
        tab.goto(f"{server.url}/#chat")
        ask(tab, "hello", 1)
        assert tab.get_by_label("Pictures", exact=True).count() == 0
        tab.evaluate(PASTE, ["fish.png", "drop", base64.b64encode(picture_file(picture(0))).decode()])
        ask(tab, "again", 2)
        assert tab.locator(".thumbnails").count() == 0
