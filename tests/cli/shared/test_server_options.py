"""The page's options of `shoal serve`, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.cli.language.plan_book import LanguagePlanBook
from shoal.cli.shared.server_options import ServerOptions
from shoal.errors import ConfigError
from shoal.planner.what_if import Change
from tests.cli.conftest import Shoal


def options(*, has_page: bool = True, is_demo: bool = False) -> ServerOptions:
    return ServerOptions(
        host="127.0.0.1",
        port=0,
        api_key=None,
        tls=None,
        allowed_hosts=(),
        cors_origins=(),
        drain_timeout_s=1.0,
        has_page=has_page,
        is_demo=is_demo,
    )


def test_a_server_has_a_page_unless_it_is_left_out() -> None:
    book = LanguagePlanBook(None)
    page = options(is_demo=True).page(book)
    assert page is not None
    assert (page.is_demo, page.plans) == (True, book)
    assert options(has_page=False).page(book) is None


def test_a_demo_needs_the_page(shoal: Shoal, tmp_path: Path) -> None:
    result = shoal("serve", str(tmp_path / "model.gguf"), "--demo", "--no-web")
    assert result.status == 2
    assert "--demo adds buttons to the page, which --no-web turns off" in result.stderr


def test_of_a_split_that_was_given_the_planner_knows_nothing() -> None:
    book = LanguagePlanBook(None)
    assert (book.choice("tiny"), book.machines("tiny")) == (None, ())
    with pytest.raises(ConfigError, match="the split was given"):
        book.what_if("tiny", Change(kind="links"))
