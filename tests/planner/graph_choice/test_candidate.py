"""What is predicted of a split, by hand."""

from __future__ import annotations

import pytest

from shoal.planner.graph_choice.candidate import make_candidate
from shoal.planner.graph_choice.speeds import ShardSpeed
from shoal.planner.split.split_spec import parse_split
from tests.planner.graph_choice.speeds import MS, layout, make_speeds

TWO = layout(2, 1, 12 * MS, lone_s=10 * MS)
FOUR = layout(4, 1, 24 * MS)
HOP_S = 0.1 * MS
"""latency of `planner.graph_cut.LINK`"""


def test_copies_work_side_by_side_while_one_alone_is_quicker() -> None:
    prediction = make_candidate(make_speeds(TWO, rows=3), TWO, parse_split("dp=2"), ()).prediction
    assert prediction.rows_per_s == pytest.approx(2 * 3 / (12.2 * MS))
    assert prediction.latency_s == pytest.approx(10.5 * MS)
    assert prediction.loaded_latency_s == pytest.approx(12.2 * MS)
    assert prediction.memory_bytes == (12_000, 12_000)
    assert prediction.bottleneck == "computing"


def test_a_small_graph_waits_for_messages() -> None:
    small = layout(2, 1, 0.1 * MS)
    prediction = make_candidate(make_speeds(small), small, parse_split("dp=2"), ()).prediction
    assert prediction.bottleneck == "messages between the head and the workers"


def test_a_pipeline_waits_for_its_slowest_stage() -> None:
    candidate = make_candidate(make_speeds(TWO, num_bytes=2_000_000), TWO, parse_split("pp=2"), (8,))
    carried_s = 1 * MS  # 2 MB at 2 GB/s
    assert candidate.stage_s == pytest.approx((8 * MS, 4 * MS))
    assert candidate.prediction.rows_per_s == pytest.approx(1 / (8.2 * MS + carried_s))
    assert candidate.prediction.latency_s == pytest.approx(10.5 * MS + HOP_S + carried_s)
    assert candidate.prediction.loaded_latency_s == pytest.approx(2 * (8.2 * MS + carried_s))
    assert candidate.prediction.memory_bytes == (8_000, 4_000)
    assert candidate.prediction.bottleneck == "computing in stage 0"


def test_shards_take_what_they_were_measured_to_take() -> None:
    shard = ShardSpeed(relative=0.7, weight_share=0.5)
    prediction = make_candidate(make_speeds(TWO), TWO, parse_split("tp=2"), (), shard).prediction
    assert prediction.rows_per_s == pytest.approx(1 / (0.7 * 12 * MS + 0.2 * MS))
    assert prediction.latency_s == pytest.approx(0.7 * 12 * MS + 0.5 * MS)
    assert prediction.memory_bytes == (9_000, 9_000)
    assert prediction.bottleneck == "computing and summing"


@pytest.mark.parametrize(
    ("split", "boundaries", "kind", "rows_per_s", "weights"),
    [
        ("dp=2,pp=2", (6,), "mixed", 2 / (12.2 * MS), [6_000] * 4),
        ("dp=2,tp=2", (), "mixed", 2 / (0.6 * 24 * MS + 0.2 * MS), [6_000] * 4),
        ("pp=2,tp=2", (6,), "mixed", 1 / (0.6 * 12 * MS + 0.2 * MS), [3_000] * 4),
        ("pp=4", (3, 6, 9), "pipeline", 1 / (6.2 * MS), [3_000] * 4),
    ],
)
def test_mixtures(split: str, boundaries: tuple[int, ...], kind: str, rows_per_s: float, weights: list[int]) -> None:
    spec = parse_split(split)
    shard = ShardSpeed(relative=0.6 if spec.num_shards > 1 else 1.0, weight_share=1.0)
    candidate = make_candidate(make_speeds(FOUR, num_bytes=0), FOUR, spec, boundaries, shard)
    assert candidate.kind == kind
    assert candidate.prediction.rows_per_s == pytest.approx(rows_per_s)
    assert candidate.prediction.memory_bytes == tuple(weights)
