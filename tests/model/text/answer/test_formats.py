# ruff: noqa: E501, RUF001 (answers are as long as they are, and DeepSeek writes full-width bars)
"""Answers as the families write them: whole, in pieces cut anywhere, and broken off."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.model.text.answer.answer import Reader
from shoal.model.text.answer.formats import AUTO, FORMATS, HERMES, find_format
from shoal.model.text.answer.parts import AnswerPart, CallArguments, CallStarted, Content, Reasoning
from shoal.model.text.answer.reasoning import TaggedReasoning, plain_text
from shoal.model.text.answer.stream import AnswerStream

SCHEMAS = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "zip": {"type": "string"}},
    },
    "now": {"type": "object", "properties": {}},
}
BERLIN = {"city": "Berlin", "days": 2}
TWO = [("weather", BERLIN), ("now", {})]
ANSWERS: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    ("hermes", 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}\n</tool_call>'
     '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "Let me see.\n", TWO),
    ("hermes", '<tool_call>{"arguments": {"city": "a } \\" ]"}, "name": "weather"}</tool_call>', "",
     [("weather", {"city": 'a } " ]'})]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rom\\"}"}', "", [("weather", {"city": "Rom"})]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
    ("hermes", "No < tool is <needed>.", "No < tool is <needed>.", []),
    ("llama3_json", '<|python_tag|>{"name": "weather", "parameters": {"city": "Berlin", "days": 2}}; '
     '{"name": "now", "parameters": {}}', "", TWO),
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Berlin", "days": 2}}', "", TWO[:1]),
    ("llama3_json", '{"city":  "Berlin",\n "size": [1, 2]}', '{"city":  "Berlin",\n "size": [1, 2]}', []),
    ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}, '
     '{"name": "now", "arguments": {}}]', "", TWO),
    ("mistral", 'Yes. [TOOL_CALLS]weather[ARGS]{"city": "Berlin", "days": 2}[TOOL_CALLS]now[CALL_ID]a1b2[ARGS]{}', "Yes. ", TWO),
    ("phi4_mini_json", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}]<|/tool_call|>', "", TWO[:1]),
    ("granite", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}]', "", TWO[:1]),
    ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
     '{"city": "Berlin", "days": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", TWO),
    ("deepseek_v3", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Berlin", "days": 2}'
     "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", TWO),
    ("kimi_k2", '<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>'
     '{"city": "Berlin", "days": 2}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
     "<|tool_call_end|><|tool_calls_section_end|>", "", TWO),
    ("qwen3_coder", "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nBerlin\n</parameter>\n<parameter=days>\n2\n"
     "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>", "I look.\n", TWO),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=zip>\n01067\n</parameter>\n</function>\n</tool_call>", "",
     [("weather", {"zip": "01067"})]),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=city>\n  two\n lines\n\n</parameter>\n</function>\n</tool_call>", "",
     [("weather", {"city": "  two\n lines\n"})]),
    ("glm45", "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Berlin</arg_value>\n<arg_key>days</arg_key>\n"
     "<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>", "", TWO),
    ("minimax_m2", '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Berlin</parameter>\n'
     '<parameter name="days">2</parameter>\n</invoke>\n</minimax:tool_call>', "", TWO[:1]),
    ("openai", '<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant<|channel|>commentary to=functions.weather '
     '<|constrain|>json<|message|>{"city": "Berlin", "days": 2}<|call|>', "", TWO[:1]),
    ("openai", "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!", "Hello!", []),
]  # fmt: skip


def reader_of(name: str) -> Reader:
    return find_format(name, "").reader


def read(reader: Reader, pieces: list[str]) -> list[AnswerPart]:
    stream = AnswerStream(reader, SCHEMAS)
    return [part for piece in pieces for part in stream.push(piece)] + stream.close()


def content(parts: list[AnswerPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))


def calls(parts: list[AnswerPart]) -> list[tuple[str, str]]:
    """Name and arguments of each call, which come in order."""
    found: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallStarted):
            assert part.index == len(found)
            found.append((part.name, ""))
        elif isinstance(part, CallArguments):
            assert part.index == len(found) - 1
            found[-1] = (found[-1][0], found[-1][1] + part.text)
    return found


@pytest.mark.parametrize(("name", "text", "visible", "wanted"), ANSWERS)
def test_an_answer(name: str, text: str, visible: str, wanted: list[tuple[str, Any]]) -> None:
    whole = read(reader_of(name), [text])
    assert content(whole) == visible
    assert [(called, json.loads(arguments)) for called, arguments in calls(whole)] == wanted
    letters = read(reader_of(name), list(text))
    assert (content(letters), calls(letters)) == (visible, calls(whole))


@given(st.sampled_from(ANSWERS), st.data())
def test_cuts_change_nothing(answer: tuple[str, str, str, Any], data: st.DataObject) -> None:
    name, text, visible, _ = answer
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    parts = read(reader_of(name), [text[start:end] for start, end in pairwise([0, *cuts, len(text)])])
    assert (content(parts), calls(parts)) == (visible, calls(read(reader_of(name), [text])))


@given(st.sampled_from(ANSWERS), st.data())
def test_a_broken_answer_ends(answer: tuple[str, str, str, Any], data: st.DataObject) -> None:
    """Wherever it was cut off: what was told before stays as it was told, and nothing raises."""
    name, text, *_ = answer
    place = data.draw(st.integers(0, len(text)))
    if name == "openai":  # whose markers are tokens, and never cut
        assume(text[:place].rfind("<|") <= text[:place].rfind("|>"))
    whole, broken = read(reader_of(name), [text]), read(reader_of(name), [text[:place]])
    for (called, arguments), (named, all_arguments) in zip(calls(broken), calls(whole), strict=False):
        assert named.startswith(called)
        assert all_arguments.startswith(arguments.removesuffix("{}").removesuffix("}")) or called != named


@given(st.sampled_from(FORMATS), st.text(alphabet='<>|[]{}":,tool_calARGS \n', max_size=60))
def test_any_text_is_read_to_its_end(form: Any, text: str) -> None:
    parts = read(form.reader, list(text))
    assert len(content(parts)) <= len(text)


def test_arguments_come_as_they_are_written() -> None:
    stream = AnswerStream(HERMES.reader, SCHEMAS)
    assert stream.push('<tool_call>{"name": "weather", "arguments": {"ci') == [
        CallStarted(0, "weather"),
        CallArguments(0, '{"ci'),
    ]
    assert stream.push('ty": "Ber') == [CallArguments(0, 'ty": "Ber')]
    assert stream.push('lin"}}</tool_call>') == [CallArguments(0, 'lin"}')]
    assert stream.close() == []


@pytest.mark.parametrize(
    ("is_open", "text", "thought", "visible"),
    [
        (False, "<think>\nHm.\n</think>\n\nYes.", "Hm.\n", "Yes."),
        (True, "Hm.\n</think>\n\nYes.", "Hm.\n", "Yes."),
        (False, "Yes.", "", "Yes."),
        (True, "Still thinking", "Still thinking", ""),
        (False, "<thin ice>", "", "<thin ice>"),
    ],
)
def test_reasoning(is_open: bool, text: str, thought: str, visible: str) -> None:
    for pieces in ([text], list(text)):
        parts = read(TaggedReasoning(is_open=is_open, then=plain_text), pieces)
        assert "".join(part.text for part in parts if isinstance(part, Reasoning)) == thought
        assert content(parts) == visible


def test_reasoning_of_gpt_oss() -> None:
    parts = read(
        reader_of("openai"),
        ["<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hi"],
    )
    assert parts == [Reasoning("Easy."), Content("Hi")]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_template_tells_the_format(form: Any) -> None:
    assert find_format(AUTO, "{{ x }} " + " ".join(form.signs)).name == form.name
    assert find_format(form.name, "").name == form.name


def test_other_templates_and_names() -> None:
    assert find_format(AUTO, "{{ messages }}") is HERMES
    with pytest.raises(ConfigError, match="did you mean mistral"):
        find_format("mistrl", "")
