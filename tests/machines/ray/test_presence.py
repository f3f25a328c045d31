"""Which machines are there."""

from __future__ import annotations

from shoal.machines.ray.presence import Presence


def test_a_machine_is_back_once_when_it_answers_whatever_was_wrong() -> None:
    presence = Presence()
    presence.note_there("a")
    presence.note_there("b")
    assert presence.take_back() == [], "they were never away"
    for trouble in ("does not answer", "cannot be reached"):
        presence.note_trouble("b", trouble)
        assert presence.living() == {"a"}
        assert presence.troubles() == {"b": trouble}
        assert presence.take_back() == []
        presence.note_there("b")
        presence.note_there("b")
        assert presence.take_back() == ["b"]
        assert presence.take_back() == []
        assert presence.troubles() == {}


def test_one_that_is_gone_again_is_not_back() -> None:
    presence = Presence()
    presence.note_there("a")
    presence.note_trouble("a", "does not answer")
    presence.note_there("a")
    presence.note_trouble("a", "does not answer")
    assert presence.take_back() == []


def test_one_that_joins_is_told_once() -> None:
    presence = Presence()
    presence.note_joined("a")
    presence.note_joined("a")
    assert presence.take_back() == ["a"]
    assert presence.living() == {"a"}
