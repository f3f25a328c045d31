"""No field of today's client libraries is accepted and ignored: all that their types can say is known here.

Whatever they can send is implemented, refused with a 400 that names it, or listed as changing nothing. Only what an
error for unknown fields is raised for would be none of these.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from shoal.errors import InvalidRequest
from shoal.server.anthropic.schemas import CountBody, MessagesBody
from shoal.server.embeddings.ollama_api import EmbedBody, OldEmbedBody
from shoal.server.embeddings.schemas import EmbeddingsBody
from shoal.server.ollama.schemas import ApiChatBody, ApiGenerateBody
from shoal.server.openai.body.chat_body import ChatBody
from shoal.server.openai.body.completion_body import CompletionBody
from shoal.server.openai.body.fields import STRICT_FIELDS
from shoal.server.responses.schemas import ResponsesBody
from shoal.server.speech.schemas import read_speech_form
from tests.server.clients.client_bodies import bodies_of

TURN = {"role": "user", "content": "x"}
CHAT, ASKED = {"messages": [TURN]}, {"model": "m", "messages": [TURN]}
_OPENAI, _ANTHROPIC, _OLLAMA = "openai.types", "anthropic.types", "ollama._types"
CALLS: dict[str, tuple[type[BaseModel], str, dict[str, Any]]] = {
    "chat": (ChatBody, f"{_OPENAI}.chat.completion_create_params:CompletionCreateParamsStreaming", CHAT),
    "completions": (
        CompletionBody,
        f"{_OPENAI}.completion_create_params:CompletionCreateParamsStreaming",
        {"prompt": "x"},
    ),
    "responses": (
        ResponsesBody,
        f"{_OPENAI}.responses.response_create_params:ResponseCreateParamsStreaming",
        {"input": [TURN]},
    ),
    "embeddings": (EmbeddingsBody, f"{_OPENAI}:EmbeddingCreateParams", {"input": "x"}),
    "messages": (
        MessagesBody,
        f"{_ANTHROPIC}.message_create_params:MessageCreateParamsStreaming",
        {**ASKED, "max_tokens": 5},
    ),
    "count_tokens": (CountBody, f"{_ANTHROPIC}:MessageCountTokensParams", ASKED),
    "ollama chat": (ApiChatBody, f"{_OLLAMA}:ChatRequest", ASKED),
    "ollama generate": (ApiGenerateBody, f"{_OLLAMA}:GenerateRequest", {"model": "m", "prompt": "x"}),
    "ollama embed": (EmbedBody, f"{_OLLAMA}:EmbedRequest", {"model": "m", "input": "x"}),
    "ollama embeddings": (OldEmbedBody, f"{_OLLAMA}:EmbeddingsRequest", {"model": "m", "prompt": "x"}),
}
"""Our schema of a body, the client's type of it by name, since importing takes seconds, and the smallest body."""
UNKNOWN = "is not a field"
FORMS = {
    False: f"{_OPENAI}.audio.transcription_create_params:TranscriptionCreateParamsStreaming",
    True: f"{_OPENAI}.audio:TranslationCreateParams",
}


def refusal(schema: type[BaseModel], body: Any) -> str | None:
    """What is said against a body; None: it is taken."""
    try:
        schema.model_validate(body, context={STRICT_FIELDS: True})
    except ValidationError as error:
        return str(error)  # the schema has the field, and other values of it
    except InvalidRequest as error:
        return str(error)
    return None


@pytest.mark.parametrize("call", CALLS)
def test_every_field_that_a_client_can_send_is_known(call: str) -> None:
    schema, name, base = CALLS[call]
    assert refusal(schema, base) is None
    said = {(path, refusal(schema, body)) for path, body in bodies_of(resolve_name(name), base)}
    assert not [(path, why) for path, why in said if why is not None and UNKNOWN in why]
    assert sum(why is None for _, why in said) >= 4, "bodies that are taken, so that fields are looked at"


ODD = {"odd": 1}
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("chat", ODD),
        ("chat", {"messages": [{**TURN, **ODD}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **ODD}]}]}),
        ("chat", {"messages": [{"role": "user", "content": [{**PICTURE, **ODD}]}]}),
        ("chat", {"messages": [{"role": "user", "content": [{**PICTURE, "image_url": {"url": "x", **ODD}}]}]}),
        ("chat", {"messages": [TURN, {"role": "assistant", "tool_calls": [{**CALL, **ODD}]}]}),
        ("chat", {"messages": [TURN, {"role": "assistant", "tool_calls": [{"function": {"name": "f", **ODD}}]}]}),
        ("chat", {"tools": [{**TOOL, **ODD}]}),
        ("chat", {"tools": [{"type": "function", "function": {"name": "f", **ODD}}]}),
        ("chat", {"tools": [TOOL], "tool_choice": {**TOOL, **ODD}}),
        ("chat", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f", **ODD}}}),
        ("chat", {"response_format": {"type": "json_object", **ODD}}),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, **ODD}}}),
        ("chat", {"stream": True, "stream_options": ODD}),
        ("responses", {"input": [{**TURN, **ODD}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", **ODD}]}]}),
        ("responses", {"tools": [{"type": "function", "name": "f", **ODD}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **ODD}]}]}),
        ("messages", {"tools": [{"name": "f", "input_schema": {}, **ODD}]}),
        ("messages", {"thinking": {"type": "disabled", **ODD}}),
        ("ollama chat", {"options": ODD}),
    ],
)
def test_a_field_of_no_client_is_found(call: str, fields: dict[str, Any]) -> None:
    """What the test above looks for can be there."""
    schema, _, base = CALLS[call]
    assert UNKNOWN in (refusal(schema, {**base, **fields}) or "")
    schema.model_validate({**base, **fields})


@pytest.mark.parametrize(
    ("call", "fields", "param"),
    [
        ("responses", {"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools.defer_loading"),
        ("responses", {"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ("messages", {"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]}, "tools.input_examples"),
        ("ollama generate", {"width": 512}, "width"),
    ],
)
def test_what_would_change_the_answer_is_refused_within_lists_as_well(
    call: str, fields: dict[str, Any], param: str
) -> None:
    schema, _, base = CALLS[call]
    with pytest.raises(InvalidRequest) as caught:
        schema.model_validate({**base, **fields})
    assert caught.value.param == param


@pytest.mark.parametrize("is_translation", FORMS)
def test_every_part_of_a_form_with_sound_is_known(is_translation: bool) -> None:
    for path, body in bodies_of(resolve_name(FORMS[is_translation]), {}):
        name = path.partition("[")[0].partition(".")[0]
        parts = {"file": b"RIFF", name: b"RIFF" if name == "file" else _part(body[name])}
        said = ""
        try:
            read_speech_form(list(parts.items()), is_translation=is_translation, strict_fields=True)
        except InvalidRequest as error:
            said = str(error)
        assert UNKNOWN not in said


def _part(value: Any) -> str:
    """As a form has it: a list is sent as several parts of the same name."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else str(value).lower()
