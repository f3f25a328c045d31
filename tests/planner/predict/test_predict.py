"""Predictions of small plans, against sums made by hand. Streams of 10 prompt and 11 output tokens.

A whole model of 4 layers takes 4 x 0.4 ms a prompt row and 4 x 2 ms an output row; its head 2 ms a sampled row. Of a
prompt the last MLP sees a single row: 10 x 0.3 - 1 = 2 ms less.
"""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner.predict.placement import PlacedReplica, PlacedShard, PredictedStage
from shoal.planner.predict.predict import deal_streams, predict
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Curve, Fleet, LinkSpeed
from tests.planner.example_speeds import MS, example_fleet, example_worker, whole_stages

ONE = Workload(streams=1, prompt_tokens=10, output_tokens=11)
FOUR = Workload(streams=4, prompt_tokens=10, output_tokens=11)
PROMPT_MS = 16 + 2 - 2
TOKEN_MS = 8 + 2
HIDDEN_BYTES = 256


def test_one_worker_and_one_stream():
    prediction = predict([whole_stages(4)], example_fleet(), ONE, hidden_bytes=HIDDEN_BYTES)
    period_ms = PROMPT_MS + 10 * TOKEN_MS
    assert prediction.output_tokens_per_s == pytest.approx(11 / (period_ms * MS))
    assert prediction.ttft_s == pytest.approx(PROMPT_MS * MS)
    assert prediction.tpot_s == pytest.approx(TOKEN_MS * MS)
    assert prediction.memory_bytes == (1000,)
    assert prediction.bottleneck == "computing"


def test_whole_copies_share_the_streams():
    one = predict([whole_stages(4)], example_fleet(), ONE, hidden_bytes=HIDDEN_BYTES)
    both = predict(
        [whole_stages(4)] * 2,
        example_fleet(),
        Workload(streams=2, prompt_tokens=10, output_tokens=11),
        hidden_bytes=HIDDEN_BYTES,
    )
    assert both.output_tokens_per_s == pytest.approx(2 * one.output_tokens_per_s)


def test_a_second_copy_is_no_use_to_one_stream():
    one = predict([whole_stages(4)], example_fleet(), ONE, hidden_bytes=HIDDEN_BYTES)
    two = predict([whole_stages(4)] * 2, example_fleet(), ONE, hidden_bytes=HIDDEN_BYTES)
    assert two.output_tokens_per_s == pytest.approx(one.output_tokens_per_s)


def test_a_full_pipeline_moves_at_the_pace_of_its_slowest_stage():
    """Two micro-batches of 2 requests. Stage 0: 20 x 0.4 ms + 10 x 2 x 2 ms. Stage 1: three such layers, the head for 2
    x 2 ms and 10 x 4 ms, and 20 x 0.3 - 2 x 1 ms saved."""
    prediction = predict([whole_stages(1, 3)], example_fleet(), FOUR, hidden_bytes=HIDDEN_BYTES)
    second_ms = 3 * (8 + 40) + 4 + 40 - 4
    assert prediction.output_tokens_per_s == pytest.approx(4 * 11 / (2 * second_ms * MS))
    assert prediction.bottleneck == "computing in stage 1"


def test_slow_links_make_the_stages_wait():
    """Latency for 1 prompt step and 10 decode steps."""
    slow = example_fleet(link=LinkSpeed(latency_s=1.0, bytes_per_s=1e12))
    prediction = predict([whole_stages(2, 2)], slow, FOUR, hidden_bytes=HIDDEN_BYTES)
    assert prediction.output_tokens_per_s == pytest.approx(4 * 11 / 22, rel=1e-3)
    assert prediction.bottleneck == "the link behind stage 0"


def test_a_lone_token_waits_for_every_stage_and_link():
    """The prompt of 10 is not cut further: a piece has 16 rows at least."""
    fleet = example_fleet(link=LinkSpeed(latency_s=1 * MS, bytes_per_s=HIDDEN_BYTES / MS))
    prediction = predict([whole_stages(2, 2)], fleet, ONE, hidden_bytes=HIDDEN_BYTES)
    assert prediction.ttft_s == pytest.approx((PROMPT_MS + 1 + 10) * MS)
    assert prediction.tpot_s == pytest.approx((TOKEN_MS + 2) * MS)
    assert prediction.bottleneck == "tokens coming round through all stages"


def test_a_long_lone_prompt_fills_the_pipeline_in_pieces():
    """100 rows in pieces of 50: stage 1 takes 2 x 50 x 0.4 ms; stage 2 half of the head and 50 x 0.3 - 0.5 ms less."""
    workload = Workload(streams=1, prompt_tokens=100, output_tokens=11)
    prediction = predict([whole_stages(2, 2)], example_fleet(), workload, hidden_bytes=HIDDEN_BYTES)
    first_ms = 2 * 50 * 0.4
    second_ms = 2 * 50 * 0.4 + 1 - (15 - 1)
    assert prediction.ttft_s == pytest.approx((first_ms + second_ms + first_ms) * MS)


def test_a_group_pays_two_sums_a_layer_one_for_the_embedding_and_its_sampling():
    half = PlacedShard(worker_class=0, attention=0.5, mlp=0.5, vocabulary=0.5)
    group = PlacedReplica(stages=(PredictedStage(num_layers=4, precision="fp32", shards=(half, half)),))
    fleet = example_fleet(sums=LinkSpeed(latency_s=1 * MS, bytes_per_s=1e15))
    prediction = predict([group], fleet, ONE, hidden_bytes=HIDDEN_BYTES)
    sums_ms = 2 * 4 + 1 + 2
    assert prediction.tpot_s == pytest.approx((TOKEN_MS / 2 + sums_ms) * MS)
    # a shard of the last layer computes all of its rows: nothing is saved
    assert prediction.ttft_s == pytest.approx((16 / 2 + 2 / 2 + sums_ms) * MS)


def test_workers_are_alone_only_while_the_others_wait():
    fleet = example_fleet(alone=example_worker(0.5), busy=example_worker())
    half = PlacedShard(worker_class=0, attention=0.5, mlp=0.5, vocabulary=0.5)
    group = PlacedReplica(stages=(PredictedStage(num_layers=4, precision="fp32", shards=(half, half)),))

    def tpot_ms(replicas: list[PlacedReplica], workload: Workload) -> float:
        return predict(replicas, fleet, workload, hidden_bytes=HIDDEN_BYTES).tpot_s / MS

    assert tpot_ms([whole_stages(2, 2)], ONE) == pytest.approx(TOKEN_MS / 2)
    assert tpot_ms([whole_stages(4)] * 2, ONE) == pytest.approx(TOKEN_MS / 2)
    two = Workload(streams=2, prompt_tokens=10, output_tokens=11)
    assert tpot_ms([whole_stages(4)] * 2, two) == pytest.approx(TOKEN_MS)
    assert tpot_ms([group], ONE) == pytest.approx(TOKEN_MS / 2)


def test_children_cost_a_message_a_step_and_the_head_its_turn():
    plain = example_fleet()
    fleet = Fleet(
        classes=plain.classes,
        links=plain.links,
        sums=plain.sums,
        turn=Curve(rows=(1,), seconds=(0.25 * MS,)),
        message_s=1 * MS,
    )
    alone = predict([whole_stages(4)], fleet, ONE, hidden_bytes=HIDDEN_BYTES)
    pipeline = predict([whole_stages(2, 2)], fleet, ONE, hidden_bytes=HIDDEN_BYTES)
    assert alone.tpot_s == pytest.approx((TOKEN_MS + 0.25) * MS)
    assert pipeline.tpot_s == pytest.approx((TOKEN_MS + 1.25) * MS)


def test_streams_go_where_they_end_first():
    assert deal_streams([lambda n: 1.0 * n, lambda n: 1.0 * n], 5) == [3, 2]
    assert deal_streams([lambda n: 1.0 * n, lambda n: 3.0 * n], 4) == [3, 1]
    assert deal_streams([lambda n: 1.0 * n, lambda n: 10.0 * n], 3) == [3, 0]


def one_by_one(periods: list[Callable[[int], float]], num_streams: int) -> list[int]:
    """What `deal_streams` says of itself, in the plainest form."""
    counts = [0] * len(periods)
    for _ in range(num_streams):
        index = min(range(len(periods)), key=lambda one: (periods[one](counts[one] + 1), counts[one], one))
        counts[index] += 1
    return counts


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.1, 30.0)), min_size=2, max_size=6), st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_many_streams_are_dealt_out_as_one_by_one(lines: list[tuple[float, float]], num_streams: int) -> None:
    periods = [lambda n, fixed=fixed, slope=slope: fixed + slope * n for fixed, slope in lines]
    assert deal_streams(periods, num_streams) == one_by_one(periods, num_streams)


def test_a_hundred_million_streams_are_dealt_out_in_a_few_looks():
    looks = 0

    def period(streams: int) -> float:
        nonlocal looks
        looks += 1
        return 1.0 * streams

    assert deal_streams([period, lambda n: 3.0 * n], 100_000_000) == [75_000_000, 25_000_000]
    assert looks < 1000


def test_unequal_copies_get_unequal_streams():
    fast, slow = example_fleet(busy=example_worker(1.0)), example_fleet(busy=example_worker(3.0))
    fleet = Fleet(classes=(*fast.classes, *slow.classes), links=(fast.links[0] * 2,) * 2, sums=(fast.sums[0] * 2,) * 2)
    copies = [
        PlacedReplica(
            stages=(PredictedStage(num_layers=4, precision="fp32", shards=(PlacedShard(worker_class=index),)),)
        )
        for index in (0, 1)
    ]
    workload = Workload(streams=4, prompt_tokens=10, output_tokens=11)
    both = predict(copies, fleet, workload, hidden_bytes=HIDDEN_BYTES)
    period_ms = 3 * (PROMPT_MS + 10 * TOKEN_MS)  # three requests on the fast one, one on the slow one
    assert both.output_tokens_per_s == pytest.approx(4 * 11 / (period_ms * MS))


def test_prompts_and_tokens_each_wait_for_the_stage_that_is_slowest_at_them():
    """Stage 0 has two layers for the prompts, stage 1 one layer, its last MLP left out, and a head for the tokens."""
    prediction = predict([whole_stages(2, 1)], example_fleet(), FOUR, hidden_bytes=HIDDEN_BYTES)
    prompts_ms = 2 * 8
    tokens_ms = max(2 * 40, 40 + 40)
    assert prediction.output_tokens_per_s == pytest.approx(4 * 11 / (2 * (prompts_ms + tokens_ms) * MS))
