"""Seconds of tensor groups' stages: exact where the usual shares fit, elsewhere bounds that keep their word."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from shoal.planner.choice.costs.model_sizes import PrecisionSizes, StageBytesTable
from shoal.planner.choice.costs.stage_times import StageCosts
from shoal.planner.choice.groups import make_groups
from shoal.planner.predict.workload import Workload
from tests.planner.choice.example_fleets import MB, make_class, make_fleet, make_model


def costs_of(*memory_mb: int, shares_kv: bool = False) -> StageCosts:
    """Of three workers, each twice as slow as the one before, and 8 layers of 10 MB."""
    classes = [make_class(f"c{i}", slowness=2.0**i, memory_mb=own_mb) for i, own_mb in enumerate(memory_mb)]
    fleet = make_fleet(*classes)
    model = replace(make_model(), shares_kv=shares_kv)
    return StageCosts(
        fleet=fleet,
        model=model,
        workload=Workload(streams=4, prompt_tokens=64, output_tokens=32),
        groups=make_groups(fleet.counts, ["int8"], max_shards=model.atoms.max_shards),
        kv_streams=4,
        is_alone=False,
    )


def test_stages_of_one_kind_have_the_same_bytes_and_ends() -> None:
    layer_bytes = (3, 3, 3, 5, 3, 3, 3, 3)
    sizes = PrecisionSizes(attention_bytes=layer_bytes, mlp_bytes=(7,) * 8, embedding_bytes=11, head_bytes=13)
    model = replace(make_model(), by_precision={"int8": sizes})
    table, kinds = StageBytesTable(model, "int8", 2), model.stage_kinds("int8")
    stages = [(first, last) for first in range(8) for last in range(first + 1, 9)]
    assert (kinds.kind_of[8] == 0).all()
    for first, last in stages:
        kind = kinds.kind_of[first, last]
        assert table.of(first, last) == table.of(int(kinds.first[kind]), int(kinds.last[kind]))
        assert kinds.num_layers[kind] == last - first
        assert kinds.ends[kind] == 2 * (first == 0) + (last == 8)
    assert kinds.kind_of[4, 6] == kinds.kind_of[5, 7] == kinds.kind_of[1, 3] != kinds.kind_of[2, 4]
    assert len(kinds.first) < len(stages)


@pytest.mark.parametrize("memory_mb", [(40, 40, 40), (20, 30, 60), (30, 36, 26)])
@pytest.mark.parametrize("rows", [1, 4])
def test_no_stage_is_quicker_than_its_bound(memory_mb: tuple[int, int, int], rows: int) -> None:
    costs = costs_of(*memory_mb)
    times = costs.times(rows)
    num_bounds = 0
    for group, first, last in np.argwhere(np.isfinite(times.work_s)).tolist():
        bound_s, exact_s = float(times.work_s[group, first, last]), times.stage_s(group, first, last)
        assert bound_s <= exact_s * (1 + 1e-9)
        num_bounds += bound_s < exact_s * (1 - 1e-9)
    assert num_bounds  # the memory is small enough for some shares to be unusual


@pytest.mark.parametrize("memory_mb", [(40, 40, 40), (20, 30, 60), (30, 36, 26)])
def test_more_layers_never_take_less(memory_mb: tuple[int, int, int]) -> None:
    work_s = costs_of(*memory_mb).times(4).work_s
    num_places = work_s.shape[1]
    for first in range(num_places - 1):
        one_more = work_s[:, first, first + 1 :]
        assert (one_more[:, 1:] >= one_more[:, :-1]).all()
    for last in range(1, num_places):
        one_less = work_s[:, :last, last]
        assert (one_less[:, 1:] <= one_less[:, :-1]).all()


def test_stages_that_no_bound_rules_out_fit_by_their_bytes() -> None:
    costs = costs_of(30, 36, 26)
    times = costs.times(4)
    for index, first, last in np.argwhere(np.isfinite(times.work_s)).tolist():
        group = costs.groups[index]
        if np.isfinite(times.stage_s(index, first, last)):
            own_bytes = costs.sharing.stage_bytes(group, first, last, 4)
            limits = [costs.fleet.classes[one].memory_bytes for one in group.members]
            assert all(own <= limit for own, limit in zip(own_bytes, limits, strict=True))
    assert costs.fleet.classes[0].memory_bytes == 30 * MB


def test_every_shard_keeps_the_rows_that_all_heads_share() -> None:
    """A shard of latent attention needs room for them, and stages that fit alone do not fit with them."""
    latent, plain = costs_of(400, 400, 400, shares_kv=True), costs_of(400, 400, 400)
    kv_bytes = 2 * plain.model.kv_bytes_per_token * 4 * (64 + 32)
    for group in (one for one in plain.groups if not one.is_single):
        counted = sum(latent.sharing.stage_bytes(group, 2, 4, 4)) - sum(plain.sharing.stage_bytes(group, 2, 4, 4))
        shares = plain.sharing.shares(group, 2, 4, 4)
        assert shares is not None
        assert counted == pytest.approx((sum(heads > 0 for heads in shares.heads) - 1) * kv_bytes, abs=8)
    group = next(one for one in plain.groups if len(set(one.members)) == 2)
    room_mb = dict(
        zip(group.members, (math.ceil(own / MB) for own in plain.sharing.stage_bytes(group, 0, 8, 4)), strict=True)
    )
    tight = [costs_of(*(room_mb.get(one, 1) for one in range(3)), shares_kv=shares) for shares in (False, True)]
    assert [costs.sharing.shares(group, 0, 8, 4) is not None for costs in tight] == [True, False]
