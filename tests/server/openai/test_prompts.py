"""Scores of prompts, and prompts with a gap."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import openai
import pytest

from tests.server.fakes import ByteTokenizer, FakeEngine, ids
from tests.server.running_server import MODEL, RunningServer, run_server

PREFIX, SUFFIX, MIDDLE, PAD = range(257, 261)


class CodeTokenizer(ByteTokenizer):
    """With the tokens of Qwen2.5-Coder, and a token that begins every text."""

    vocab_size = 262

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return [261, *ids(text)] if add_special else ids(text)

    def added_token_id(self, text: str) -> int | None:
        names = {"<|fim_prefix|>": PREFIX, "<|fim_suffix|>": SUFFIX, "<|fim_middle|>": MIDDLE, "<|fim_pad|>": PAD}
        return names.get(text)


@pytest.fixture(scope="module")
def code() -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=lambda request: [*ids("in"), PAD]), tokenizer=CodeTokenizer()) as running:
        yield running


@pytest.mark.parametrize("prompt", ["ab", ids("ab"), [261, *ids("ab")]])
def test_a_gap_is_filled(code: RunningServer, prompt: Any) -> None:
    with openai.OpenAI(base_url=f"{code.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.completions.create(model=MODEL, prompt=prompt, suffix="cd", max_tokens=9)
    head = () if prompt == ids("ab") else (261,)
    filled = (*head, PREFIX, *ids("ab"), SUFFIX, *ids("cd"), MIDDLE)
    assert code.engine.requests[-1].prompt_ids == filled
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("in", "stop")


@pytest.mark.parametrize(("fields", "param"), [({"suffix": "x"}, "suffix"), ({"suffix": "x", "echo": True}, "echo")])
def test_what_cannot_be_filled(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model=MODEL, prompt="x", **fields)
    assert refusal.value.param == param
    assert client.completions.create(model=MODEL, prompt="{x}", suffix="").choices[0].text == "x"


def test_prompts_of_completions_are_scored(http: httpx.Client) -> None:
    body = {"prompt": ["ab{c}", "x", "a{de}"], "prompt_logprobs": 1, "n": 2, "max_tokens": 3}
    answer = http.post("/v1/completions", json=body).json()
    assert [choice["text"] for choice in answer["choices"]][::4] == ["c", "de"]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    scores = [choice["prompt_logprobs"] for choice in answer["choices"]]
    assert scores[0] == scores[1]
    assert [len(one) for one in scores] == [5, 5, 1, 1, 5, 5]
    assert scores[0][0] is None
    assert scores[0][1] == {str(ord("b")): {"logprob": -0.5, "rank": 1, "decoded_token": "b"}}
    plain = http.post("/v1/completions", json={**body, "prompt_logprobs": None}).json()
    assert all(answer["usage"][name] == plain["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
    assert "prompt_logprobs" not in plain["choices"][0]


def test_a_conversation_is_scored(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "{hi}"}], "prompt_logprobs": 0}
    answer = http.post("/v1/chat/completions", json=body).json()
    prompt = "<user>{hi}<assistant>"
    assert answer["choices"][0]["message"]["content"] == "hi"
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert [next(iter(one.values()))["decoded_token"] for one in answer["prompt_logprobs"][1:]] == list(prompt[1:])


def test_an_echo_may_be_scored_both_ways(http: httpx.Client) -> None:
    body = {"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0, "prompt_logprobs": 0}
    (choice,) = http.post("/v1/completions", json=body).json()["choices"]
    assert choice["text"] == "ab"
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5]
    assert choice["prompt_logprobs"][1][str(ord("b"))]["logprob"] == -0.5


def test_a_stream_has_no_scores(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "x", "prompt_logprobs": 1, "stream": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt_logprobs")
