"""Nodes that go from slow stages to fast ones."""

from __future__ import annotations

import pytest

from shoal.planner.graph_cut import CutPlace
from shoal.planner.graph_move import recut

NODES = [1e-3] * 12
PLACES = [CutPlace(node=node, num_bytes=64) for node in range(1, 12)]


def test_a_stage_at_half_speed_gives_nodes_away():
    moved = recut(NODES, PLACES, (6,), (6e-3, 12e-3))
    assert moved.boundaries == (8,)
    assert moved.stage_s == pytest.approx((8e-3, 8e-3))


def test_the_middle_of_three_gives_to_both_sides():
    moved = recut(NODES, PLACES, (4, 8), (4e-3, 12e-3, 4e-3))
    first, second = moved.boundaries
    assert first > 4
    assert second < 8
    assert max(moved.stage_s) == pytest.approx(6e-3)


def test_equal_stages_keep_their_nodes_whatever_the_unit_of_the_times():
    assert recut([7.0] * 12, PLACES, (6,), (0.02, 0.02)).boundaries == (6,)


def test_only_places_are_cut():
    assert recut(NODES, [PLACES[0], PLACES[5]], (6,), (6e-3, 12e-3)).boundaries == (6,)
