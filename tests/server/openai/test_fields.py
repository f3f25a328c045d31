"""What would change the answer is refused by name, what would not is ignored, and so is what nobody knows, but where
that is taken for a typing error."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, ValidationError

from shoal.errors import InvalidRequest
from shoal.server.anthropic.schemas import CountBody, MessagesBody
from shoal.server.openai.body.chat_body import ChatBody
from shoal.server.openai.body.completion_body import CompletionBody
from shoal.server.openai.body.fields import NEUTRAL_VALUES, STRICT_FIELDS
from shoal.server.responses.schemas import ResponsesBody
from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, run_server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "{hi}"}]}
COMPLETION: dict[str, Any] = {"prompt": "{hi}"}
STRICT = {STRICT_FIELDS: True}
CHANGES = {
    "add_generation_prompt": False, "allowed_token_ids": [5], "audio": {"voice": "x"}, "bad_words": ["x"],
    "chat_template": "x", "continue_final_message": True,
    "documents": [{}], "function_call": {"name": "f"},
    "guided_decoding_backend": "x", "include_stop_str_in_output": True,
    "length_penalty": 1.5, "logits_processors": ["x"], "modalities": ["audio"],
    "n_predict": 5, "prediction": {}, "prompt_embeds": "x",
    "repeat_penalty": 1.1, "return_token_ids": True,
    "return_tokens_as_token_ids": True, "skip_special_tokens": False,
    "truncate_prompt_tokens": 5, "typical_p": 0.5, "web_search_options": {},
    "use_beam_search": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_fields_that_would_change_the_answer(field: str) -> None:
    for schema, body in ((ChatBody, CHAT), (CompletionBody, COMPLETION)):
        with pytest.raises(InvalidRequest, match="is not supported by this server") as refusal:
            schema.model_validate({**body, field: CHANGES[field]})
        assert refusal.value.param == field
        schema.model_validate({**body, field: None})


@pytest.mark.parametrize("field", ["tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"])
def test_what_only_a_conversation_may_have(field: str) -> None:
    with pytest.raises(InvalidRequest, match="is not supported by this server") as refusal:
        CompletionBody.model_validate({**COMPLETION, field: ["x"]})
    assert refusal.value.param == field


def test_neutral_values_are_taken() -> None:
    for field, values in NEUTRAL_VALUES.items():
        for value in values:
            ChatBody.model_validate({**CHAT, field: value})


def test_special_tokens_are_added_where_they_usually_are() -> None:
    ChatBody.model_validate({**CHAT, "add_special_tokens": False})
    CompletionBody.model_validate({**COMPLETION, "add_special_tokens": True})
    for schema, body, value in ((ChatBody, CHAT, True), (CompletionBody, COMPLETION, False)):
        with pytest.raises(InvalidRequest, match="add_special_tokens"):
            schema.model_validate({**body, "add_special_tokens": value})


@pytest.mark.parametrize(
    ("field", "near"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("Stream", "stream"), ("top-p", "top_p")],
)
def test_typing_errors(field: str, near: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f"`{field}` is not a field of this endpoint: did you mean `{near}`"
    ) as error:
        ChatBody.model_validate({**CHAT, field: 1}, context=STRICT)
    assert error.value.param == field
    ChatBody.model_validate({**CHAT, field: 1})


def test_field_that_nobody_knows() -> None:
    name = "x" * 100_000
    with pytest.raises(InvalidRequest, match="is not a field of this endpoint: leave it out") as error:
        CompletionBody.model_validate({**COMPLETION, name: 1}, context=STRICT)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"function_call": {"name": "f", "arguments": "{}"}}, "function_call"),
        ({"audio": {"id": "1"}}, "audio"),
        ({"contents": "x"}, "contents"),
    ],
)
def test_fields_of_messages(fields: dict[str, Any], param: str) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": None, **fields}]
    with pytest.raises(InvalidRequest) as error:
        ChatBody.model_validate({"messages": messages}, context=STRICT)
    assert error.value.param == f"messages[1].{param}"


def test_message_as_the_official_client_dumps_it(client: openai.OpenAI) -> None:
    """The next turn sends the answer's message back as it came, with the fields that are null."""
    messages: list[Any] = [{"role": "user", "content": "say {one}"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    messages += [answer.choices[0].message, {"role": "user", "content": "say {two}"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    messages[1] = messages[1].model_dump()
    again = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == again.choices[0].message.content == "two"


def test_harmless_fields_from_the_official_client(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=CHAT["messages"],
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        prompt_cache_key="k",
        safety_identifier="s",
        stream=False,
        extra_body={"priority": 1, "cache_salt": "x"},
    )
    assert answer.choices[0].message.content == "hi"


@pytest.mark.parametrize(
    ("schema", "params"),
    [
        (ChatBody, "openai.types.chat.completion_create_params:CompletionCreateParamsBase"),
        (CompletionBody, "openai.types.completion_create_params:CompletionCreateParamsBase"),
        (ResponsesBody, "openai.types.responses.response_create_params:ResponseCreateParamsBase"),
        (MessagesBody, "anthropic.types.message_create_params:MessageCreateParamsBase"),
        (MessagesBody, "anthropic.types.beta.message_create_params:MessageCreateParamsBase"),
        (CountBody, "anthropic.types:MessageCountTokensParams"),
    ],
)
def test_every_field_of_the_official_clients_is_known(schema: type[BaseModel], params: str) -> None:
    """Each is implemented, refused by name, or said to change nothing; none is ignored as an unknown one would be."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x", "max_tokens": 5}
    own = {name: value for name, value in body.items() if name in schema.model_fields}
    for name in resolve_name(params).__annotations__:
        value = own.get(name, {"odd": "value"})
        message = ""
        try:
            schema.model_validate({**own, name: value}, context=STRICT)
        except ValidationError:
            continue  # the schema has it
        except InvalidRequest as error:
            message = str(error)
        assert f"`{name}` is not a field" not in message


def test_unknown_fields_are_refused_where_that_is_asked_for() -> None:
    with run_server(FakeEngine(), strict_fields=True) as running:
        for path, body in (("chat/completions", CHAT), ("completions", COMPLETION), ("responses", {"input": "{hi}"})):
            answer = httpx.post(f"{running.url}/v1/{path}", json={**body, "max_tokns": 5})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "max_tokns"


def test_prefill_is_refused_by_name(client: openai.OpenAI) -> None:
    messages: list[Any] = [*CHAT["messages"], {"role": "assistant", "content": "The capital of Fran"}]
    options = {"continue_final_message": True, "add_generation_prompt": False}
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=messages, extra_body=options)
    assert error.value.param in options
