"""A chat template that tries to compute for ever costs its own conversation a 400, and nobody else anything."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from shoal.model.text.chat_template import ChatTemplate
from tests.model.text.hostile_templates import ENDLESS
from tests.server.fakes import ByteTokenizer, FakeEngine
from tests.server.load.loop_lag import MAX_LAG_S, LagWatch, frozen_heap
from tests.server.running_server import RunningServer, run_server

NAMES = ("two loops", "doubling by +", "nested lists", "searches by method", "lines", "sorted texts")


class TemplateTokenizer(ByteTokenizer):
    """Renders message I with template I; its first one is harmless."""

    def __init__(self) -> None:
        super().__init__()
        choices = "".join(f"{{% elif messages[0].content == '{name}' %}}{ENDLESS[name]}" for name in NAMES)
        self._template = ChatTemplate("{% if false %}" + choices + "{% else %}{fine}{% endif %}", {})

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], *options: object) -> str:
        return self._template.render(messages)


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with frozen_heap(), run_server(FakeEngine(), tokenizer=TemplateTokenizer()) as running:
        yield running


def ask(server: RunningServer, content: str) -> httpx.Response:
    messages = [{"role": "user", "content": content}]
    return httpx.post(f"{server.url}/v1/chat/completions", json={"messages": messages}, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_others_go_on(server: RunningServer, name: str) -> None:
    assert ask(server, "hello").json()["choices"][0]["message"]["content"] == "fine"
    lag_s, answer = LagWatch(server.loop).least_s(lambda: ask(server, name))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert lag_s < MAX_LAG_S
