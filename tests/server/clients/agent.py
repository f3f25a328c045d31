"""A model that works like an agent: it calls two tools in turn, four times, and then answers."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager

from shoal.core.sequences.request import Request
from tests.server.fakes import EOS, ByteTokenizer, FakeEngine, FakeStats, ids
from tests.server.running_server import RunningServer, run_server

STEPS = (
    ("weather", {"city": "Rom"}),
    ("add", {"a": 19, "b": 2}),
    ("weather", {"city": "Bonn"}),
    ("add", {"a": 8, "b": 13}),
)
RESULTS = ("19 degrees", "21", "8 degrees", "21")
ANSWER = "Both come to 21."
QUESTION = "What do Rom and Bonn come to?"


def weather(city: str) -> str:
    """The temperature in a city."""
    return {"Rom": "19 degrees", "Bonn": "8 degrees"}[city]


def add(a: int, b: int) -> str:
    """The sum of two numbers."""
    return str(a + b)


TOOLS = {"weather": weather, "add": add}


class AgentTokenizer(ByteTokenizer):
    """Shows what a turn is by its role alone."""

    template_source = "<tool_call>"


def reply(request: Request) -> list[int]:
    """The next step, by the results that the prompt holds; where nothing was offered, what it was told to say."""
    prompt = bytes(token_id for token_id in request.prompt_ids if token_id < EOS).decode()
    if "say:" in prompt:
        return ids(prompt.split("say:")[1].split("<")[0])
    num_done = prompt.count("<tool>")
    assert all(result in prompt for result in RESULTS[:num_done])
    if num_done == len(STEPS) or not prompt.startswith("<tools>"):
        return ids(ANSWER)
    name, arguments = STEPS[num_done]
    return ids(f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>")


@contextmanager
def serve_agent() -> Generator[RunningServer, None, None]:
    """A server of that model, with room for whole conversations."""
    engine = FakeEngine(reply=reply)
    engine.base_stats = FakeStats(max_context=1 << 14)
    engine.max_prompt_tokens = 1 << 14
    with run_server(engine, tokenizer=AgentTokenizer()) as running:
        yield running
