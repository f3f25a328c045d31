"""Requests with forms and tools, and answers of several choices."""

from __future__ import annotations

import json
from typing import Any

from shoal.bench.chaos.config import ChaosConfig
from shoal.bench.chaos.guided import GuidedAnswer, GuidedQuestions

CONFIG = ChaosConfig(model="m", clients=6, requests=4, prompt_tokens=5, output_tokens=7, guided=True)


def answer(*events: dict[str, Any]) -> GuidedAnswer:
    result = GuidedAnswer(started_s=0.0)
    for place, fields in enumerate(events):
        result.on_event(json.dumps({"choices": [fields]}).encode(), float(place))
    result.on_event(b"[DONE]", 9.0)
    return result


def called(index: int, call: int, **function: str) -> dict[str, Any]:
    return {"index": index, "delta": {"tool_calls": [{"index": call, "id": "call_x", "function": function}]}}


def test_the_order_in_which_choices_come_makes_no_difference() -> None:
    one = answer(
        {"index": 0, "text": "a"},
        {"index": 1, "text": "b", "finish_reason": "stop"},
        {"index": 0, "text": "c", "finish_reason": "length"},
    )
    other = answer(
        {"index": 0, "text": "ac", "finish_reason": "length"},
        {"index": 1, "text": "b", "finish_reason": "stop"},
    )
    assert (one.text, one.finish_reason) == ("0: ac\n1: b", "length, stop")
    assert one.equals(other)
    assert not one.equals(answer({"index": 0, "text": "ac", "finish_reason": "length"}))


def test_calls_are_compared_without_their_random_ids() -> None:
    end = {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    one = answer(called(0, 0, name="f", arguments='{"a'), called(0, 0, arguments='":1}'), end)
    assert one.equals(answer(called(0, 0, name="f", arguments='{"a":1}'), end))
    assert not one.equals(answer(called(0, 0, name="f", arguments='{"a":2}'), end))
    assert not one.equals(answer(called(0, 0, name="g", arguments='{"a":1}'), end))


def test_there_is_a_question_for_every_client_and_request() -> None:
    assert len(GuidedQuestions(CONFIG, "http://127.0.0.1:1", "model")) == 24
