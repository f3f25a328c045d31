"""The page in a browser, over fake engines: views, keys, loss of the server, and what a model or a file may write."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from shoal.cli.show.graph_plan_output import graph_answer_dict
from shoal.core.recovery.worker_life import Phase
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_what_if import ask_of_machines
from shoal.planner.what_if import Change
from shoal.server.web.routes import PageOptions
from tests.planner.graph_choice.example_graph_fleets import make_graph_fleet
from tests.server.fakes import FakeEngine, ids
from tests.server.oip.running import run_server as run_graph_server
from tests.server.running_server import MODEL, run_server
from tests.server.switch.test_switch_app import KEY, SERVER_KEY, Models, switched
from tests.server.web.plans import page as page_options
from tests.web.conftest import axe_violations

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

MARKDOWN = """# Title

Some **bold** `code`, a [good link](https://example.org/x) and a [bad one](javascript:alert(1)).

| a | b |
|---|---|
| 1 | <b>2</b> |

```python
print("<hello>")
```

1. one
2. two

<script>window.broken = 1</script> <img src=x onerror="window.broken = 1">
![picture](https://example.org/picture.png)
<svg onload="window.broken=1"></svg> <a href="javascript:window.broken=1">here</a>
"""


def saying(text: str) -> FakeEngine:
    engine = FakeEngine(reply=lambda request: ids(text))
    engine.base_stats = replace(engine.base_stats, max_context=40_000)
    return engine


@pytest.fixture(scope="module")
def url() -> Generator[str, None, None]:
    with run_server(saying(MARKDOWN), page=page_options()) as running:
        yield running.url


def replica(tab: Page) -> Locator:
    return tab.get_by_role("region", name="Replica 0")


def ask(tab: Page, text: str) -> None:
    tab.get_by_label("Message").fill(text)
    tab.keyboard.press("Enter")


@pytest.mark.parametrize("view", ["cluster", "chat", "load", "plan"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_is_accessible(tab: Page, url: str, view: str, theme: str) -> None:
    tab.emulate_media(color_scheme=theme)  # pyright: ignore[reportArgumentType]
    tab.goto(f"{url}/#{view}")
    tab.wait_for_selector("main h2")
    if view == "load":
        tab.wait_for_selector("figure")
    if view == "chat":
        ask(tab, "hello")
        tab.get_by_role("article", name="Answer", exact=True).wait_for()
    assert axe_violations(tab) == []


def test_what_a_model_writes_becomes_no_element_that_acts(tab: Page, url: str) -> None:
    fetched: list[str] = []
    tab.on("request", lambda request: fetched.append(request.url))
    tab.goto(f"{url}/#chat")
    ask(tab, "<img src=x onerror=window.broken=1> {x}")
    answer = tab.get_by_role("article", name="Answer", exact=True)
    answer.wait_for()
    assert answer.locator("script, img, svg, iframe").count() == 0
    assert [link.get_attribute("href") for link in answer.get_by_role("link").all()] == ["https://example.org/x"]
    assert answer.locator("td").nth(1).inner_text() == "<b>2</b>"
    assert answer.locator("pre").inner_text() == 'print("<hello>")'
    assert answer.locator("strong").inner_text() == "bold"
    assert answer.locator("ol > li").all_inner_texts() == ["one", "two"]
    assert "<script>window.broken = 1</script>" in answer.inner_text()
    assert tab.evaluate("window.broken") is None
    assert all(address.startswith(url) for address in fetched)


def test_a_conversation_is_still_there_after_a_reload(tab: Page, url: str) -> None:
    tab.goto(f"{url}/#chat")
    ask(tab, "remember this")
    tab.get_by_role("article", name="Answer", exact=True).wait_for()
    tab.get_by_role("button", name="New conversation").first.click()
    tab.reload()
    tab.get_by_role("button", name="remember this", exact=True).click()
    assert tab.get_by_role("article").count() == 2
    tab.get_by_role("button", name="Delete remember this").click()
    assert tab.get_by_role("article").count() == 0


def test_settings_go_with_the_request(tab: Page) -> None:
    engine = saying("fine")
    with run_server(engine, page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        tab.get_by_role("button", name="New conversation").click()
        tab.get_by_text("Settings: tiny").click()
        tab.get_by_label("System prompt").fill("be brief")
        tab.get_by_label("temperature").fill("0.3")
        tab.get_by_label("seed").fill("17")
        tab.get_by_label("max_tokens").fill("3")
        ask(tab, "hello")
        tab.get_by_role("article", name="Answer", exact=True).get_by_text("token limit").wait_for()
        (request,) = engine.requests
    assert (request.sampling.temperature, request.sampling.seed, request.max_tokens) == (0.3, 17, 3)
    assert bytes(request.prompt_ids).decode() == "<system>be brief<user>hello<assistant>"


def test_an_answer_can_be_stopped_and_what_came_is_kept(tab: Page) -> None:
    engine = saying("x" * 1000)
    engine.stall_after = 5
    with run_server(engine, page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        ask(tab, "go")
        tab.get_by_text("xxxxx").wait_for()
        tab.get_by_role("button", name="Stop").click()
        tab.get_by_role("article", name="Answer", exact=True).get_by_text("stopped").wait_for()
        assert engine.cancel_seen.wait(30)


def test_ten_thousand_tokens_do_not_hold_the_page(tab: Page) -> None:
    """Words, so that there is much to lay out; the button answers while they come."""
    engine = saying("word **w** " * 910)
    with run_server(engine, page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        ask(tab, "go on")
        answer = tab.get_by_role("article", name="Answer", exact=True)
        answer.wait_for()
        assert answer.locator("strong").count() == 910
        assert "10011 tokens" in answer.inner_text()


def test_a_refusal_is_a_line(tab: Page) -> None:
    engine = saying("never")
    with run_server(engine, page=page_options(), has_chat_template=False) as running:
        tab.goto(f"{running.url}/#chat")
        ask(tab, "hello")
        tab.get_by_role("alert").get_by_text("no chat template").wait_for()


def test_losses_slowness_and_recovery_are_seen(tab: Page) -> None:
    engine = FakeEngine()
    engine.base_stats = replace(
        engine.base_stats, phases=(Phase.SERVING, Phase.SERVING), slowdowns=((1.0, 1.0), (1.0,))
    )
    well = engine.base_stats
    with run_server(engine, page=page_options()) as running:
        tab.goto(running.url)
        replica(tab).get_by_text("serving").wait_for()
        engine.base_stats = replace(well, phases=(Phase.STARTING, Phase.SERVING), slowdowns=((1.0, 2.5), (1.0,)))
        events = tab.get_by_role("region", name="What has happened")
        events.get_by_text("replica 0 has lost workers: starting").wait_for()
        events.get_by_text("replica 0, stage 1 is slow").wait_for()
        replica(tab).get_by_text("starting").wait_for()
        engine.base_stats = well
        events.get_by_text("replica 0 serves again").wait_for()
        events.get_by_text("replica 0, stage 1 is as fast as usual again").wait_for()


def test_a_loss_that_is_over_before_the_page_looks_again_is_told(tab: Page) -> None:
    engine = FakeEngine()
    well = engine.base_stats = replace(engine.base_stats, phases=(Phase.SERVING, Phase.SERVING))
    with run_server(engine, page=page_options()) as running:
        tab.goto(running.url)
        replica(tab).get_by_text("serving").wait_for()
        first, other = well.work
        engine.base_stats = replace(well, work=(replace(first, pids=(11, 13)), other), num_losses=1)
        replica(tab).get_by_text("serving again, with new workers").wait_for()
        events = tab.get_by_role("region", name="What has happened")
        events.get_by_text("replica 0 has lost workers").wait_for()
        events.get_by_text("replica 0 serves again").wait_for()
        assert "replica 1" not in events.inner_text()


def test_curves_of_a_model_that_is_not_loaded_now_have_no_value_now(tab: Page, url: str) -> None:
    fields = ("in_per_s", "out_per_s", "running", "waiting", "kv_usage", "serving", "losses")
    series = {"name": "tiny", "age_s": [10.0, 5.0], **{field: [2.0, None] for field in fields}}
    tab.route("**/status/history", lambda route: route.fulfill(json={"period_s": 5.0, "models": [series]}))
    tab.goto(f"{url}/#load")
    tab.get_by_role("img", name="Serving replicas: \N{EN DASH} now, 2 at most").wait_for()


def test_stories_are_told_and_closed_with_the_keyboard(tab: Page) -> None:
    engine = FakeEngine()
    engine.story.note(1.0, 0, "request <b>r</b> came", ["step 1"], ["r-0"])
    with run_server(engine, page=page_options()) as running:
        tab.goto(running.url)
        tab.get_by_label("Story of a request").fill("r")
        tab.keyboard.press("Enter")
        dialog = tab.get_by_role("dialog", name="The story of request r")
        dialog.get_by_text("request <b>r</b> came").wait_for()
        tab.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        tab.get_by_title("Story of replica 0 stage 0").focus()
        tab.keyboard.press("Enter")
        tab.get_by_role("dialog", name="The story of replica 0").get_by_text("step 1").wait_for()
        assert axe_violations(tab) == []


def test_keys_are_asked_for_and_a_wrong_one_is_told(tab: Page) -> None:
    with run_server(FakeEngine(), page=page_options(), api_key="right") as running:
        tab.goto(running.url)
        assert axe_violations(tab) == []
        tab.get_by_label("Key").fill("wröng")
        tab.keyboard.press("Enter")
        tab.get_by_text("did not accept this key").wait_for()
        tab.get_by_label("Key").fill("right")
        tab.keyboard.press("Enter")
        replica(tab).wait_for()
        assert tab.evaluate("[localStorage.length, sessionStorage.getItem('shoal-key')]") == [0, "right"]


def test_a_server_that_is_gone_is_told_of_and_so_is_its_return(tab: Page) -> None:
    with run_server(FakeEngine(), page=page_options()) as running:
        port = int(running.url.rpartition(":")[2])
        tab.goto(running.url)
        replica(tab).wait_for()
    tab.get_by_role("alert").get_by_text("the server does not answer").wait_for()
    with run_server(FakeEngine(), page=page_options(), port=port):
        tab.get_by_text("the server answers again").wait_for()
        tab.get_by_role("alert").get_by_text("does not answer").wait_for(state="detached")


def test_questions_to_the_planner(tab: Page, url: str) -> None:
    tab.goto(f"{url}/#plan")
    tab.get_by_role("button", name="one fewer of a").click()
    tab.get_by_text("With one fewer of a: it fits nowhere").wait_for()
    tab.get_by_role("combobox", name="Machine").select_option("b")
    tab.get_by_role("button", name="one more like b").click()
    tab.get_by_text("With one more like b: single").wait_for()
    assert axe_violations(tab) == []


class GraphPlans:
    """Implements `PlanBook`: the planner's own answers for two machines that run a chain."""

    question = ask_of_machines(make_graph_fleet(1.0, 1.0), Goal(objective="throughput"))

    def choice(self, model: str) -> dict[str, Any]:
        return graph_answer_dict(self.question.answer())

    def machines(self, model: str) -> tuple[str, ...]:
        return self.question.class_names

    def what_if(self, model: str, change: Change) -> dict[str, Any]:
        return graph_answer_dict(self.question.changed(change).answer())


def test_questions_to_the_planner_of_a_graph(tab: Page) -> None:
    with run_graph_server(page=PageOptions(plans=GraphPlans())) as running:
        tab.goto(f"{running.url}/#plan")
        tab.get_by_role("region", name=re.compile("Plans that were compared")).get_by_text("tensor").wait_for()
        tab.get_by_role("combobox", name="Machine").select_option("m1")
        tab.get_by_role("button", name="one more like m1").click()
        told = tab.get_by_role("status").get_by_text("With one more like m1")
        told.wait_for()
        assert "rows/s (+50" in told.inner_text()
        assert axe_violations(tab) == []


def test_a_phone_shows_all_of_it_without_scrolling_sideways(tab: Page, url: str) -> None:
    tab.set_viewport_size({"width": 360, "height": 640})
    for view in ("cluster", "chat", "load", "plan"):
        tab.goto(f"{url}/#{view}")
        tab.wait_for_selector("main h2")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, view


def test_a_phone_shows_all_inputs_of_a_graph(tab: Page) -> None:
    tab.set_viewport_size({"width": 360, "height": 640})
    with run_graph_server(page=page_options()) as running:
        tab.goto(f"{running.url}/#try")
        tab.get_by_role("group", name="x FP32").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_keyboard_reaches_the_content_and_the_views(tab: Page, url: str) -> None:
    tab.goto(url)
    tab.wait_for_selector("nav a")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"
    tab.get_by_role("link", name="Plan").focus()
    tab.keyboard.press("Enter")
    tab.get_by_role("heading", name="Plan", exact=True).wait_for()
    assert tab.get_by_role("link", name="Plan").get_attribute("aria-current") == "page"


def test_a_graph_is_tried_with_a_file_of_an_awkward_name(tab: Page, tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=window.broken=1>.npy"
    np.save(file, np.linspace(0.0, 1.0, 12, dtype=np.float32).reshape(3, 4))
    with run_graph_server(page=page_options()) as running:
        tab.goto(f"{running.url}/#try")
        given = tab.get_by_role("group", name="x FP32")
        given.get_by_label("Picture, sound or .npy").set_input_files(file)
        tab.get_by_role("group", name="ids INT64").get_by_label("numbers").fill("7, 8, 9, 10, 11, 12")
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("alert").get_by_text("must agree in").wait_for()
        tab.get_by_role("group", name="ids INT64").get_by_label("numbers").fill("")
        ids_file = tmp_path / "ids.npy"
        np.save(ids_file, np.arange(6).reshape(3, 2))
        tab.get_by_role("group", name="ids INT64").get_by_label("Picture, sound or .npy").set_input_files(ids_file)
        tab.get_by_role("button", name="Run").click()
        output = tab.get_by_role("region", name="Output y")
        output.wait_for()
        assert "1.6364, 1.8182, 2" in output.inner_text()
        assert "0, 1, 2, 3, 4, 5" in tab.get_by_role("region", name="Output z").inner_text()
        assert axe_violations(tab) == []
        with tab.expect_download() as saved:
            output.get_by_role("button", name="Save as .npy").click()
        np.testing.assert_allclose(np.load(saved.value.path()), 2.0 * np.load(file))
        broken = tmp_path / "<b>x.txt"
        broken.write_text("nothing")
        given.get_by_label("Picture, sound or .npy").set_input_files(broken)
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("alert").get_by_text("<b>x.txt is neither a picture").wait_for()
    assert tab.evaluate("window.broken") is None


def test_averages_are_of_one_model_each(tab: Page) -> None:
    with (
        run_server(saying("here"), api_key=SERVER_KEY) as first,
        run_server(saying("there"), api_key=SERVER_KEY, name='the "other"') as other,
    ):
        models = Models({MODEL: first.url, 'the "other"': other.url})
        with switched(models, page=page_options()) as url:
            body = {"model": MODEL, "prompt": "x"}
            httpx.post(f"{url}/v1/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
            tab.goto(f"{url}#plan")
            tab.get_by_label("Key").fill(KEY)
            tab.keyboard.press("Enter")
            asked, silent = (tab.get_by_role("region", name=f"Plan of {name}") for name in models.urls)
            asked.get_by_text(re.compile(r"^\d.* on average$")).first.wait_for()
            silent.get_by_text("\N{EN DASH} on average").first.wait_for()
            assert silent.get_by_text(re.compile(r"^\d.* on average$")).count() == 0


def test_a_model_that_is_not_loaded_is_shown_and_a_chat_brings_it(tab: Page) -> None:
    with (
        run_server(saying("here"), api_key=SERVER_KEY) as first,
        run_server(saying("there"), api_key=SERVER_KEY, name="other") as other,
    ):
        models = Models({MODEL: first.url, "other": other.url})
        with switched(models, max_loaded=1, page=page_options()) as url:
            tab.goto(url)
            tab.get_by_label("Key").fill(KEY)
            tab.keyboard.press("Enter")
            tab.get_by_role("region", name="Model other").get_by_text("a request to it starts its workers").wait_for()
            assert axe_violations(tab) == []
            tab.get_by_role("link", name="Chat").click()
            tab.get_by_role("button", name="New conversation").click()
            tab.get_by_text(f"Settings: {MODEL}").click()
            tab.get_by_role("combobox", name="model").select_option("other")
            ask(tab, "where?")
            tab.get_by_role("article", name="Answer", exact=True).get_by_text("there").wait_for()
    assert models.started == [MODEL, "other"]
