"""Conversations that a browser keeps, or does not: its store, other tabs, interrupted answers, long lists."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.fakes import ByteTokenizer, FakeEngine, ids
from tests.server.running_server import run_server
from tests.server.web.plans import page as page_options
from tests.web.conftest import axe_violations

if TYPE_CHECKING:
    from playwright.sync_api import Page

REFUSED = "for (const one of ['localStorage', 'sessionStorage']) Object.defineProperty(window, one, {get() {throw 1}})"
FULL = "Storage.prototype.setItem = () => {throw new DOMException('full', 'QuotaExceededError')}"
MANY = """localStorage.setItem('shoal-conversations', JSON.stringify(Array.from({length: 100}, (_, index) => ({
    id: String(index), title: `question ${index}`, messages: [],
    settings: {model: 'tiny', system: '', temperature: 0, top_p: 1, max_tokens: '', seed: ''},
}))))"""
"""from an earlier version, which may have kept more"""


def engine_of(text: str, **options: Any) -> FakeEngine:
    engine = FakeEngine(reply=lambda request: ids(text), **options)
    engine.base_stats = replace(engine.base_stats, max_context=40_000)
    return engine


@pytest.fixture
def engine() -> FakeEngine:
    return engine_of("fine")


@pytest.fixture
def url(engine: FakeEngine) -> Generator[str, None, None]:
    with run_server(engine, page=page_options()) as running:
        yield running.url


def ask(tab: Page, text: str) -> None:
    tab.get_by_label("Message").fill(text)
    tab.keyboard.press("Enter")


def converse(tab: Page, text: str) -> None:
    """In a conversation of its own, to its end."""
    tab.get_by_role("button", name="New conversation").first.click()
    ask(tab, text)
    tab.get_by_role("article", name="Answer", exact=True).wait_for()


def titles(tab: Page) -> list[str]:
    names = tab.get_by_role("complementary").get_by_role("listitem").all_inner_texts()
    return [name.splitlines()[0] for name in names]


@pytest.mark.parametrize("store", [REFUSED, FULL])
def test_a_browser_without_room_chats_and_says_that_it_keeps_nothing(tab: Page, url: str, store: str) -> None:
    tab.add_init_script(store)
    tab.goto(f"{url}/#chat")
    tab.get_by_label("Colors").select_option("dark")
    ask(tab, "hello")
    tab.get_by_role("article", name="Answer", exact=True).get_by_text("fine").wait_for()
    tab.get_by_text("not all conversations outlast this tab").wait_for()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_two_tabs_do_not_write_over_each_other(tab: Page, url: str) -> None:
    other = tab.context.new_page()
    for one in (tab, other):
        one.goto(f"{url}/#chat")
        one.get_by_label("Message").wait_for()
    converse(tab, "first")
    other.get_by_role("button", name="first", exact=True).wait_for()
    converse(other, "second")
    tab.get_by_role("button", name="second", exact=True).wait_for()
    tab.reload()
    tab.get_by_label("Message").wait_for()
    assert titles(tab) == ["second", "first"]


def test_questions_without_an_answer_go_with_the_next(tab: Page, url: str, engine: FakeEngine) -> None:
    """Templates of many models refuse two questions in a row: nothing could ever be asked there again."""
    tab.route("**/v1/chat/completions", lambda route: route.abort())
    tab.goto(f"{url}/#chat")
    ask(tab, "one")
    tab.get_by_role("alert").get_by_text("the server does not answer").wait_for()
    tab.unroute("**/v1/chat/completions")
    ask(tab, "two")
    tab.get_by_role("article", name="Answer", exact=True).wait_for()
    assert bytes(engine.requests[-1].prompt_ids).decode() == "<user>one\n\ntwo<assistant>"


def test_what_came_of_an_answer_outlasts_a_reload(tab: Page) -> None:
    with run_server(engine_of("x" * 100, stall_after=5), page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        ask(tab, "go")
        tab.get_by_text("xxxxx").wait_for()
        tab.reload()
        answer = tab.get_by_role("article", name="Answer", exact=True)
        answer.get_by_text("interrupted").wait_for()
        assert "xxxxx" in answer.inner_text()


def test_what_was_asked_last_is_first(tab: Page, url: str) -> None:
    """Where there are too many, the last ones go: the one in use must not be among them."""
    tab.goto(f"{url}/#chat")
    for text in ("a", "b"):
        converse(tab, text)
    assert titles(tab) == ["b", "a"]
    tab.get_by_role("button", name="a", exact=True).click()
    ask(tab, "again")
    tab.get_by_role("article", name="Answer", exact=True).nth(1).wait_for()
    assert titles(tab) == ["a", "b"]


def test_settings_that_are_no_numbers_are_pointed_at(tab: Page, url: str, engine: FakeEngine) -> None:
    tab.goto(f"{url}/#chat")
    converse(tab, "a")
    tab.locator("summary").first.click()
    seed = tab.get_by_label("seed")
    seed.fill("seven")
    seed.press("Tab")
    assert tab.evaluate("document.activeElement.placeholder") == "any"
    seed.fill("7")
    ask(tab, "b")
    tab.get_by_role("article", name="Answer", exact=True).nth(1).wait_for()
    assert engine.requests[-1].sampling.seed == 7


def test_settings_that_are_being_typed_outlast_the_next_look_at_the_server(
    tab: Page, url: str, engine: FakeEngine
) -> None:
    """The page is drawn anew whenever it has looked."""
    tab.goto(f"{url}/#chat")
    tab.get_by_role("button", name="Settings: tiny").click()
    tab.get_by_label("System prompt").press_sequentially("be")
    tab.get_by_label("seed").press_sequentially("1")
    for _ in range(2):  # the first may have been under way
        with tab.expect_response("**/status"):
            pass
    tab.get_by_label("seed").press_sequentially("7")
    tab.get_by_label("System prompt").press_sequentially(" brief")
    ask(tab, "a")
    tab.get_by_role("article", name="Answer", exact=True).wait_for()
    assert engine.requests[-1].sampling.seed == 17
    assert bytes(engine.requests[-1].prompt_ids).decode() == "<system>be brief<user>a<assistant>"


def test_thoughts_are_shown_and_not_sent_again(tab: Page) -> None:
    class Thinking(ByteTokenizer):
        template_source = "<think>"

    engine = engine_of("<think>it is **hard**</think>yes")
    with run_server(engine, tokenizer=Thinking(), page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        ask(tab, "is it?")
        answer = tab.get_by_role("article", name="Answer", exact=True)
        answer.get_by_text("yes").wait_for()
        assert not answer.locator("strong").is_visible()
        answer.get_by_text("Thoughts").click()
        assert answer.locator("strong").inner_text() == "hard"
        assert axe_violations(tab) == []
        ask(tab, "sure?")
        answer.nth(1).wait_for()
    assert bytes(engine.requests[-1].prompt_ids).decode() == "<user>is it?<assistant>yes<user>sure?<assistant>"


def test_a_model_that_only_thought_has_answered(tab: Page) -> None:
    class Thinking(ByteTokenizer):
        template_source = "<think>"

    with run_server(engine_of("<think>never ends"), tokenizer=Thinking(), page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        ask(tab, "is it?")
        answer = tab.get_by_role("article", name="Answer", exact=True)
        answer.get_by_text("Thoughts").click()
        answer.get_by_text("never ends").wait_for()


def test_a_hundred_conversations_leave_room_for_the_answer_on_a_phone(tab: Page, url: str) -> None:
    tab.set_viewport_size({"width": 360, "height": 640})
    tab.add_init_script(MANY)
    tab.goto(f"{url}/#chat")
    tab.get_by_role("button", name="question 49", exact=True).wait_for()
    assert axe_violations(tab) == []
    ask(tab, "hello")
    answer = tab.get_by_role("article", name="Answer", exact=True)
    answer.wait_for()
    box = answer.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 640
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert len(titles(tab)) == 50


def test_a_question_in_a_long_conversation_brings_its_answer_into_sight(tab: Page) -> None:
    tab.set_viewport_size({"width": 1100, "height": 400})
    with run_server(engine_of("line\n\n" * 25), page=page_options()) as running:
        tab.goto(f"{running.url}/#chat")
        converse(tab, "long")
        tab.evaluate("scrollTo(0, 0)")
        ask(tab, "and now?")
        tab.get_by_role("article", name="Answer", exact=True).nth(1).wait_for()
        assert tab.evaluate("scrollY > 600")


def test_a_key_that_is_wanted_is_no_trouble(tab: Page) -> None:
    """A server that comes back with a key answers: the page asks for the key, and tells of nothing else."""
    with run_server(engine_of("x"), page=page_options()) as running:
        port = int(running.url.rpartition(":")[2])
        tab.goto(running.url)
        tab.get_by_role("region", name="Replica 0").wait_for()
    tab.get_by_role("alert").get_by_text("the server does not answer").wait_for()
    with run_server(engine_of("x"), page=page_options(), port=port, api_key="key"):
        tab.get_by_label("Key").wait_for()
        tab.get_by_role("alert").get_by_text("does not answer").wait_for(state="detached")
