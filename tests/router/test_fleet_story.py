"""What is told of a language model's replicas, in the log and in their story."""

from __future__ import annotations

import logging

import pytest

from shoal.core.story import NUM_ENTRIES
from shoal.router.engine import Engine
from tests.log_lines import replica_lines
from tests.router.fakes import CONFIG, FakeExecutor, finish, make_request
from tests.router.test_engine_recovery import Clock


def events_of(engine: Engine, of: str) -> list[str]:
    return [entry.text for entry in engine.story.find(of)]


def test_a_request_that_moves_is_told_of_with_its_id_and_a_lost_replica_tells_its_story(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = FakeExecutor(answers_by_hand=True), FakeExecutor()
    engine = Engine([(CONFIG, first), (CONFIG, second)], Clock())
    try:
        with replica_lines(details=True) as lines, caplog.at_level(logging.INFO, "shoal"):
            engine.add(make_request("call-a-0", num_prompt=3))
            engine.turn(0)
            first.lose()
            finish(engine)
        story = events_of(engine, "0")
        assert story[:2] == [
            "request call-a-0 came, 3 prompt tokens",
            "decided: step 0, 3 rows of 1 requests",
        ]
        assert story[2] == "workers lost: the fake worker is gone"
        assert lines[0] == "replica 0 is lost: the fake worker is gone"
        assert lines[1] == "replica 0 is given up: the fake worker is gone"
        assert lines[2:-1] == [f"replica 0 story: {event}" for event in story]
        assert lines[-1] == "replica 1 takes over 1 requests: call-a-0"
        levels = {record.getMessage().split(":")[0]: record.levelname for record in caplog.records}
        assert (levels["replica 0 is lost"], levels["replica 0 is given up"]) == ("WARNING", "ERROR")
        assert {record.replica for record in caplog.records} == {0, 1}  # type: ignore[attr-defined]
        elsewhere = events_of(engine, "call-a")
        assert elsewhere[0] == story[0]
        assert "takes over 1 requests" in elsewhere
        assert elsewhere[-1].endswith("request call-a-0 ended: length")
        assert engine.story.find("call-a")[-1].replica == 1
        prompt_ids = make_request("call-a-0", num_prompt=3).prompt_ids
        assert not any(str(token) in caplog.text for token in prompt_ids), "no prompts in logs"
    finally:
        engine.close()


def test_the_story_is_bounded_and_forgets_requests_that_ended() -> None:
    engine = Engine([(CONFIG, FakeExecutor())], Clock())
    try:
        for number in range(NUM_ENTRIES):
            engine.add(make_request(f"r{number}", max_tokens=1))
            finish(engine)
        assert len(engine.story.find("0")) == NUM_ENTRIES
        assert engine.story.find("r0") == []
        assert engine.story.find(f"r{NUM_ENTRIES - 1}")
        assert engine._story._at == {}
    finally:
        engine.close()
