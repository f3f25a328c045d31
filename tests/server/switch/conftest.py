"""Fixtures of the tests of several models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, run_server
from tests.server.switch.switched import SERVER_KEY, Models


@pytest.fixture
def models() -> Iterator[Models]:
    """Two servers, which both call their model by the name that the switch knows the first by."""
    with ExitStack() as running:
        servers = [running.enter_context(run_server(FakeEngine(), api_key=SERVER_KEY)) for _ in "ab"]
        yield Models({MODEL: servers[0].url, "other": servers[1].url})
