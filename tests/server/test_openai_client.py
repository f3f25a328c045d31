"""The official client, unchanged, against a real server."""

from __future__ import annotations

import openai
import pytest

from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import MODEL, RunningServer, run_server


def say(text: str) -> list:
    return [{"role": "user", "content": "say {" + text + "}"}]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=say("Grüße ✓"))
    (choice,) = answer.choices
    assert choice.message.content == "Grüße ✓"
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids("<user>say {Grüße ✓}<assistant>"))
    assert answer.usage.completion_tokens == len(ids("Grüße ✓")) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_chat_takes_text_parts_and_developer_messages(client: openai.OpenAI, server: RunningServer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "{two}"}]
    messages: list = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == "two"
    prompt = bytes(server.engine.requests[-1].prompt_ids).decode()
    assert prompt == "<system>be brief<user>one\n{two}<assistant>"


def test_chat_streams_the_same_text(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=say("Grüße ✓"), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Grüße ✓"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_with_usage_ends_with_the_counts(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model=MODEL, messages=say("abc"), stream=True, n=2, stream_options=options
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 2 * 4
    assert last.usage.prompt_tokens == len(ids("<user>say {abc}<assistant>"))


def test_choices_get_seeds_of_their_own(client: openai.OpenAI) -> None:
    messages: list = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, n=3, seed=40)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [f"seed {seed} says hello" for seed in (40, 41, 42)]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_without_a_seed_it_is_drawn(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hi", n=2, max_tokens=60)
    assert answer.choices[0].text != answer.choices[1].text


def test_streamed_choices_can_be_told_apart(client: openai.OpenAI) -> None:
    texts = ["", ""]
    stream = client.completions.create(model=MODEL, prompt="hi", n=2, seed=7, stream=True, max_tokens=60)
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["seed 7 says hello", "seed 8 says hello"]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: openai.OpenAI, stream: bool) -> None:
    arguments: dict = {"model": MODEL, "messages": say("one two three"), "stop": ["wo t", "zzz"]}
    if stream:
        chunks = list(client.chat.completions.create(**arguments, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        (choice,) = client.chat.completions.create(**arguments).choices
        text, reason = choice.message.content, choice.finish_reason
    assert (text, reason) == ("one t", "stop")


def test_tokens_of_the_stop_string_are_counted(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="{one two}", stop=" t", max_tokens=60)
    assert answer.choices[0].text == "one"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len("one t")


def test_length_and_half_a_character(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="{é✓}", max_tokens=3)
    assert answer.choices[0].text == "é\N{REPLACEMENT CHARACTER}"
    assert answer.choices[0].finish_reason == "length"


def test_completions_default_to_16_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="{" + "x" * 40 + "}")
    assert answer.choices[0].text == "x" * 16


def test_chat_defaults_to_what_the_context_leaves(client: openai.OpenAI, server: RunningServer) -> None:
    client.chat.completions.create(model=MODEL, messages=say("abc"))
    request = server.engine.requests[-1]
    assert request.max_tokens == 512 - len(request.prompt_ids)


def test_several_prompts_of_every_form(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["{a}", "{b}"], n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 6
    assert client.completions.create(model=MODEL, prompt=ids("{c}")).choices[0].text == "c"
    answer = client.completions.create(model=MODEL, prompt=[ids("{d}"), ids("{e}")])
    assert [choice.text for choice in answer.choices] == ["d", "e"]


def test_ignoring_the_end_goes_on_to_the_limit(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="{ab}", max_tokens=9, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9


def test_every_sampling_parameter_arrives(client: openai.OpenAI, server: RunningServer) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=say("x"),
        temperature=0.7,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-1,
        max_completion_tokens=5,
        logit_bias={"5": -100, "3": 1.5},
        extra_body={
            "top_k": 40,
            "min_p": 0.05,
            "stop_token_ids": [7],
            "cache_salt": "x",
            "tools": [],
            "repetition_penalty": 1.2,
            "min_tokens": 2,
        },
    )
    request = server.engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.7, 0.9, 40, 0.05)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.seed == (1 << 63) - 1
    assert sampling.num_logprobs is None
    assert (sampling.logit_bias, sampling.repetition_penalty) == (((3, 1.5), (5, -100.0)), 1.2)
    assert (request.max_tokens, request.min_tokens) == (5, 2)
    assert 7 in request.stop_token_ids


def test_chat_logprobs_spell_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=say("abc"), logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["a", "b", "c"]
    assert logprobs.content[0].bytes == [97]
    assert [(top.token, top.logprob) for top in logprobs.content[1].top_logprobs] == [("b", -0.5), ("A", -9999.0)]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_swallowed_stop_string_are_left_out(client: openai.OpenAI, stream: bool) -> None:
    arguments: dict = {"model": MODEL, "prompt": "{abcd}", "logprobs": 1, "stop": "cd"}
    if stream:
        choices = [chunk.choices[0] for chunk in client.completions.create(**arguments, stream=True)]
    else:
        choices = client.completions.create(**arguments).choices
    entries = [choice.logprobs for choice in choices if choice.logprobs is not None]
    assert [token for entry in entries for token in entry.tokens or []] == ["a", "b"]
    assert [offset for entry in entries for offset in entry.text_offset or []] == [0, 1]
    assert [top for entry in entries for top in entry.top_logprobs or []] == [{"a": -0.5}, {"b": -0.5}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "shoal"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_the_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=say("x"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=MODEL, prompt="x" * 600)
    assert too_long.value.code == "context_length_exceeded"


def test_api_key() -> None:
    with run_server(FakeEngine(), api_key="s3cret") as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="s3cret", max_retries=0) as good:
            assert good.chat.completions.create(model=MODEL, messages=say("hi")).choices[0].message.content == "hi"
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as bad:
            with pytest.raises(openai.AuthenticationError) as refused:
                bad.models.list()
            assert refused.value.code == "invalid_api_key"


def test_a_model_without_a_chat_template_says_so() -> None:
    with (
        run_server(FakeEngine(), has_chat_template=False) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as plain,
    ):
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            plain.chat.completions.create(model=MODEL, messages=say("hi"))
        assert plain.completions.create(model=MODEL, prompt="{hi}").choices[0].text == "hi"
