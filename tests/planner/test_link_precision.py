"""At which precision hidden states go from machine to machine."""

from __future__ import annotations

import pytest

from shoal.errors import ConfigError
from shoal.planner.link_precision import over_links, parse_link_precisions, pays
from tests.planner.example_speeds import example_fleet


def test_auto_may_be_any_and_the_exact_one_comes_first() -> None:
    assert tuple(parse_link_precisions("auto")) == ("fp32", "fp16", "int8")
    assert tuple(parse_link_precisions("fp16")) == ("fp16",)
    with pytest.raises(ConfigError, match="auto, fp32, fp16, int8"):
        parse_link_precisions("fp8")


def test_narrower_states_make_links_faster_and_nothing_else() -> None:
    fleet = example_fleet()
    narrow = over_links(fleet, "int8")
    assert over_links(fleet, "fp32") == fleet
    assert narrow.classes == fleet.classes
    assert narrow.sums == fleet.sums
    for rows, others in zip(narrow.links, fleet.links, strict=True):
        for one, other in zip(rows, others, strict=True):
            assert one.latency_s == other.latency_s
            assert one.bytes_per_s / other.bytes_per_s == pytest.approx(4096 / (16 * 68 + 8 * 6))


def test_a_little_better_is_not_worth_it() -> None:
    assert not pays(1.05, 1.0)
    assert pays(1.2, 1.0)
