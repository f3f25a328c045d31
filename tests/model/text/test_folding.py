"""Conversations as coding agents send them, in templates that demand more order than that."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import InvalidRequest
from shoal.model.text.chat_template import ChatTemplate
from shoal.model.text.template.folding import stricter_forms

ALTERNATING = """
{%- if messages[0].role == 'system' %}{% set first, rest = messages[0].content + '|', messages[1:] %}
{%- else %}{% set first, rest = '', messages %}{% endif %}
{%- set ns = namespace(place=0) %}
{%- for m in rest if m.role != 'tool' and not m.tool_calls %}
{%- if m.role != ('user', 'assistant')[ns.place % 2] %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set ns.place = ns.place + 1 %}{% endfor %}
{{- first }}
{%- for m in rest %}
{%- for call in m.tool_calls or [] %}
{%- if call.id | length != 9 %}{{ raise_exception('names of calls have nine characters') }}{% endif %}
{{- '[' + call.id + ' ' + call.function.name + ']' }}{% endfor %}
{{- m.role + ':' + m.content + ((' of ' + m.tool_call_id) if m.role == 'tool' else '') + '\\n' }}{% endfor %}"""
"""In the manner of Mistral's."""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + ALTERNATING
"""In the manner of Gemma's."""
TEXT_ARGUMENTS = (
    "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ 'call ' + call.function.arguments }}"
    "{% endfor %}{% endfor %}"
)


def said(role: str, content: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


CALL = {"id": "toolu_0123456789", "type": "function", "function": {"name": "Bash", "arguments": {"command": "ls"}}}
CONVERSATION = [
    said("system", "Be brief."),
    said("system", "You are an agent."),
    said("user", "List."),
    said("system", "There are skills."),
    said("assistant", "Yes.", tool_calls=[CALL]),
    said("tool", "a.txt", tool_call_id=CALL["id"]),
    said("assistant", "One file."),
    said("user", "Its name?"),
    said("user", "Hurry."),
]


def test_roles_that_must_alternate() -> None:
    assert ChatTemplate(ALTERNATING, {}).render(CONVERSATION) == (
        "Be brief.\n\nYou are an agent.|user:List.\n\nThere are skills.\n[call00000 Bash]assistant:Yes.\n"
        "tool:a.txt of call00000\nassistant:One file.\nuser:Its name?\n\nHurry.\n"
    )


def test_a_template_without_a_system_role() -> None:
    prompt = ChatTemplate(NO_SYSTEM, {}).render(CONVERSATION)
    assert prompt.startswith("user:Be brief.\n\nYou are an agent.\n\nList.\n\nThere are skills.\n[call00000 Bash]")


def test_arguments_that_are_to_be_text() -> None:
    assert ChatTemplate(TEXT_ARGUMENTS, {}).render(CONVERSATION) == 'call {"command": "ls"}'


def test_what_a_template_takes_is_left_as_it_is() -> None:
    source = "{% for m in messages %}{{ m.role }} {% endfor %}"
    roles = " ".join(message["role"] for message in CONVERSATION)
    assert ChatTemplate(source, {}).render(CONVERSATION) == f"{roles} "


def test_what_no_form_helps_is_refused_with_the_first_reason() -> None:
    with pytest.raises(InvalidRequest, match="refuses these messages: roles must alternate"):
        ChatTemplate(ALTERNATING, {}).render([said("assistant", "I begin.")])


def test_pictures_stay_where_they_are() -> None:
    picture = {"type": "image"}
    conversation = [said("system", "Look."), {"role": "user", "content": [picture]}, said("system", "Closely.")]
    *_, last = stricter_forms(conversation)
    parts = [{"type": "text", "text": "Look."}, picture, {"type": "text", "text": "Closely."}]
    assert last == [{"role": "user", "content": parts}]
