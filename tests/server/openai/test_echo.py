"""Prompts that come back, scored or not, and tokens for those who count them."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.server.fakes import EOS, ids
from tests.server.running_server import MODEL


def complete(client: openai.OpenAI, prompt: Any, **fields: Any) -> Any:
    return client.completions.create(model=MODEL, prompt=prompt, **fields)


def test_a_scored_prompt_and_what_follows(client: openai.OpenAI) -> None:
    (choice,) = complete(client, "ab{c}", echo=True, logprobs=1, max_tokens=1).choices
    assert choice.text == "ab{c}c"
    assert choice.logprobs.tokens == ["a", "b", "{", "c", "}", "c"]
    assert choice.logprobs.token_logprobs == [None, *[-0.5] * 5]
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.top_logprobs[1] == {"b": -0.5}
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5]


def test_nothing_but_scores(client: openai.OpenAI) -> None:
    answer = complete(client, ["ab", ids("cde"), "x"], echo=True, logprobs=0, max_tokens=0)
    assert [choice.text for choice in answer.choices] == ["ab", "cde", "x"]
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [2, 3, 1]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 0)


def test_a_prompt_may_hold_tokens_that_end_texts(client: openai.OpenAI) -> None:
    (choice,) = complete(client, [65, EOS, 66, 67], echo=True, logprobs=0, max_tokens=0).choices
    assert len(choice.logprobs.tokens) == 4


def test_an_echo_without_scores_and_several_choices(client: openai.OpenAI) -> None:
    answer = complete(client, ["{a}", "{b}"], echo=True, n=2, max_tokens=5)
    assert [choice.text for choice in answer.choices] == ["{a}a", "{a}a", "{b}b", "{b}b"]
    stream = complete(client, "{abc}", echo=True, stream=True, max_tokens=5)
    assert "".join(chunk.choices[0].text for chunk in stream) == "{abc}abc"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": True, "stream": True, "logprobs": 1}, "echo"),
        ({"echo": True, "logprobs": 1, "prompt": "x" * 700}, "prompt"),
        ({"echo": True, "logprobs": 1, "max_tokens": 0, "prompt": ""}, "prompt"),
        ({"echo": True, "max_tokens": 0, "prompt": [[65], []]}, "prompt"),
    ],
)
def test_what_cannot_be_echoed(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        complete(client, **{"prompt": "x", **fields})
    assert refusal.value.param == param


def test_tokens_of_texts_and_conversations(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"prompt": "Grüße", "return_token_strs": True}).json()
    assert answer["tokens"] == ids("Grüße")
    assert answer["count"] == len(ids("Grüße"))
    assert answer["token_strs"][:2] == ["G", "r"]
    messages = [{"role": "user", "content": "hi"}]
    talk = http.post("/tokenize", json={"messages": messages}).json()
    assert talk["tokens"] == ids("<user>hi<assistant>")
    done = http.post("/tokenize", json={"messages": messages, "add_generation_prompt": False})
    assert done.json()["tokens"] == ids("<user>hi")
    assert http.post("/detokenize", json={"tokens": ids("Grüße")}).json() == {"prompt": "Grüße"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": []}),
        ("/tokenize", {"promt": "x"}),
        ("/tokenize", {"messages": [{"role": "user"}], "add_special_tokens": True}),
        ("/tokenize", {"messages": [{"role": "user"}], "continue_final_message": True}),
        ("/detokenize", {"tokens": [5000]}),
        ("/detokenize", {"tokens": ["x"]}),
        ("/tokenize", {"prompt": "x", "model": "other"}),
    ],
)
def test_wrong_bodies(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    assert http.post(path, json=body).status_code in (400, 404)
