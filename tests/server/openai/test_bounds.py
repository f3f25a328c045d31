"""Every part of a request has a bound that is checked before work is done on it."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.server.running_server import MODEL, RunningServer

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    assert len(response.text) < 1000
    return response.json()["error"]


def test_long_text_is_refused_unread(http: httpx.Client, server: RunningServer) -> None:
    """The fake's tokens have one character, so 513 of them cannot fit into 512 tokens."""
    for path, body in (
        (COMPLETIONS, {"prompt": "a" * 7_900_000}),
        (COMPLETIONS, {"prompt": ["fine", "a" * 513]}),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 7_900_000}]}),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 100}] * 6}),
    ):
        error = refusal(http.post(path, json={**body, "max_tokens": 1}))
        assert error["code"] == "context_length_exceeded"
        assert error["param"] == ("prompt" if path == COMPLETIONS else "messages")


def test_many_messages(http: httpx.Client) -> None:
    for count, param in ((390_000, None), (4097, "messages"), (513, "messages")):
        body = b'{"messages": [%s]}' % b",".join([b'{"role":"user"}'] * count)
        assert refusal(http.post(CHAT, content=body))["param"] == param


def test_the_name_of_a_model_is_told_in_short(http: httpx.Client) -> None:
    answer = http.post(COMPLETIONS, json={"prompt": "x", "model": "m" * 1_000_000})
    assert answer.status_code == 404
    assert len(answer.text) < 1000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", {"01": 1}),
        ("logit_bias", {"\u0661": 1}),
        ("stop", [f"{i:x}" + "a" * 480_000 for i in range(16)]),
        ("stop", ["a" * 513]),
        ("stop", ["a"] * 17),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stream_options", {"include_usage": True}),
        ("stop_token_ids", [0] * 600_000),
        ("stop_token_ids", [0] * 129),
        ("stop_token_ids", [257]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [1 << 70]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", ["1"]),
        ("prompt", [0] * 3_000_000),
        ("prompt", [[0] * 600] * 128),
        ("n", 1 << 70),
        ("max_tokens", 1 << 70),
        ("max_tokens", 1e300),
        ("temperature", 1e300),
        ("timeout", 1e300),
        ("user", ["a"] * 1_000_000),
    ],
)
def test_parts_that_are_too_large(http: httpx.Client, field: str, value: object) -> None:
    refusal(http.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 1, "n": 8, field: value}))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "[" * 300 + "]" * 300, '"\\ud800"', "{}"])
@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "max_tokens", "n", "stop", "seed", "prompt", "logprobs", "timeout", "stream"]
)
def test_values_that_are_hardly_json(http: httpx.Client, field: str, value: str) -> None:
    fields = {"prompt": '"a"', "max_tokens": "1", field: value}
    body = "{" + ",".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
    refusal(http.post(COMPLETIONS, content=body.encode()))


def test_odd_characters_come_back(http: httpx.Client) -> None:
    text = "\0 \u2028 \U0001f600 \x7f"
    answer = http.post(COMPLETIONS, json={"prompt": "{" + text + "}", "stop": ["\1"], "max_tokens": 40})
    assert answer.json()["choices"][0]["text"] == text


def test_stop_strings_and_token_ids_within_the_bounds(http: httpx.Client, server: RunningServer) -> None:
    body = {"prompt": "{hello}", "n": 3, "stop": ["x" * 512, "o"], "stop_token_ids": [0] * 128}
    answer = http.post(COMPLETIONS, json=body).json()
    assert [choice["text"] for choice in answer["choices"]] == ["hell"] * 3
    first, *others = [request.stop_token_ids for request in server.engine.requests[-3:]]
    assert all(other is first for other in others), "one set a call"


def test_many_choices_with_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "{abc}"}], n=128, logprobs=True, top_logprobs=20
    )
    assert [choice.message.content for choice in answer.choices] == ["abc"] * 128
    logprobs = answer.choices[-1].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [20] * 3


def test_max_tokens_of_no_limit_names_the_way_out(http: httpx.Client) -> None:
    for path, body in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": [{"role": "user", "content": "a"}]})):
        error = refusal(http.post(path, json={**body, "max_tokens": -1}))
        assert "leave it out" in error["message"]
        assert error["param"] == "max_tokens"


def test_slash_at_the_end(http: httpx.Client) -> None:
    answer = http.post(CHAT + "/", json={"messages": [{"role": "user", "content": "{hi}"}]})
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert http.post(COMPLETIONS + "/", json={"prompt": "{hi}"}).json()["choices"][0]["text"] == "hi"
    assert http.get("/v1/models/").json() == http.get("/v1/models").json()


def test_bytes_of_tokens_that_are_parts_of_characters(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "{é😀}"}], logprobs=True, top_logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    spelled = [byte for entry in logprobs.content for byte in entry.bytes or []]
    assert bytes(spelled).decode() == answer.choices[0].message.content == "é😀"
    assert logprobs.content[0].token == "bytes:\\xc3"
    assert logprobs.content[0].top_logprobs[0].bytes == [0xC3]


def test_top_logprobs_of_completions_have_the_drawn_token(client: openai.OpenAI) -> None:
    """The fake's likeliest are 65 and on, after the drawn one; the drawn one is added where they leave it out."""
    answer = client.completions.create(model=MODEL, prompt="{😀}", logprobs=0, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    names = ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80"]
    assert logprobs.tokens == names
    assert logprobs.top_logprobs == [{name: -0.5} for name in names]
    answer = client.completions.create(model=MODEL, prompt="{😀}", logprobs=3, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [len(top) for top in logprobs.top_logprobs or []] == [3] * 4
