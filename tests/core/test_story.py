"""The ring of what has happened to each replica."""

from __future__ import annotations

from shoal.core.story import Story


def test_the_oldest_entries_of_a_replica_go_and_no_others() -> None:
    story = Story(num_entries=3)
    story.note(0.0, 1, "first of the other")
    for number in range(10):
        story.note(float(number), 0, f"event {number}")
    assert [entry.event for entry in story.find("0")] == ["event 7", "event 8", "event 9"]
    assert [entry.event for entry in story.find("1")] == ["first of the other"]
    assert story.find("2") == story.find("nobody") == []


def test_a_request_is_found_on_every_replica_in_the_order_of_time() -> None:
    story = Story()
    story.note(3.0, 1, "takes over", request_ids=["call-1a-0"])
    story.note(1.0, 0, "came", request_ids=["call-1a-0", "call-1a-1"])
    story.note(2.0, 0, "came", request_ids=["call-1ab-0"])
    assert [entry.time_s for entry in story.find("call-1a")] == [1.0, 3.0]
    assert [entry.time_s for entry in story.find("call-1a-1")] == [1.0]
    assert [entry.time_s for entry in story.find("call")] == [1.0, 2.0, 3.0]
    assert story.find("call-1a-") == []


def test_an_entry_is_one_line_of_bounded_length() -> None:
    story = Story()
    story.note(0.0, 0, "decided", [f"effect {number}" for number in range(1000)])
    story.note(0.0, 0, "alone")
    many, alone = story.find("0")
    assert many.text.startswith("decided: effect 0; effect 1; ")
    assert many.text.endswith("; 992 more")
    assert alone.text == "alone"
