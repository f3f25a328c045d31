"""Requests are a function of the configuration, and answers are compared as a client sees them."""

from __future__ import annotations

import json

import pytest

from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.completions import StreamedAnswer, request_bodies
from shoal.bench.chaos.config import ChaosConfig
from shoal.errors import ConfigError

CONFIG = ChaosConfig(model="m", clients=2, requests=4, prompt_tokens=5, output_tokens=7)


def event(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def answer(
    *texts: str, finish_reason: str = "length", num_tokens: int = 3, logprobs: tuple[float, ...] = ()
) -> StreamedAnswer:
    result = StreamedAnswer(started_s=0.0)
    for place, text in enumerate(texts):
        is_last = place == len(texts) - 1
        choice = {
            "index": 0,
            "text": text,
            "finish_reason": finish_reason if is_last else None,
            "logprobs": {"token_logprobs": list(logprobs)} if is_last and logprobs else None,
        }
        result.on_event(event(choices=[choice]), float(place))
    result.on_event(event(choices=[], usage={"completion_tokens": num_tokens}), 9.0)
    result.on_event(b"[DONE]", 9.0)
    return result


def test_bodies_are_mixed_and_always_the_same() -> None:
    bodies = request_bodies(CONFIG, "model")
    assert bodies == request_bodies(CONFIG, "model")
    fields = [json.loads(body) for body in bodies]
    assert len({one["prompt"] for one in fields}) == 8
    assert [one["temperature"] for one in fields] == [0.0, 1.0] * 4
    assert [one["seed"] for one in fields] == list(range(8))
    assert [one.get("logprobs") for one in fields] == [None, None, 1, 1] * 2
    assert {one["max_tokens"] for one in fields} == {7}
    assert all(one["stream"] and one["ignore_eos"] for one in fields)


def test_an_answer_is_put_together_from_its_events() -> None:
    result = answer("a", "", "bc", logprobs=(-0.5, -1.5))
    assert (result.text, result.finish_reason, result.num_tokens) == ("abc", "length", 3)
    assert result.arrivals_s == [0.0, 1.0, 2.0]
    assert result.token_logprobs == [-0.5, -1.5]
    assert result.error is None


def test_the_cuts_of_a_stream_make_no_difference() -> None:
    assert answer("ab", "c").equals(answer("a", "bc"))


@pytest.mark.parametrize(
    "other",
    [
        answer("abd"),
        answer("abc", finish_reason="stop"),
        answer("abc", num_tokens=4),
        answer("abc", logprobs=(-1.0,)),
    ],
)
def test_what_a_client_sees_makes_one(other: ChaosAnswer) -> None:
    assert not answer("abc").equals(other)


def test_logprobs_may_differ_in_their_last_bits() -> None:
    mine, other = answer("abc", logprobs=(-1.0, -2.0)), answer("abc", logprobs=(-1.0, -2.25))
    assert mine.equals(other)
    assert mine.difference(other) == 0.25


def test_an_error_event_is_an_error() -> None:
    result = answer("a")
    result.on_event(event(error={"message": "gone"}), 3.0)
    assert "gone" in (result.error or "")


@pytest.mark.parametrize("wrong", [{"clients": 0}, {"requests": 0}, {"kill_every_s": 0.0}, {"minutes": -1.0}])
def test_numbers_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ChaosConfig(model="m", **wrong)  # type: ignore[arg-type]
