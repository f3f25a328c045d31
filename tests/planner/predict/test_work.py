"""Work of steps and waves, against sums made by hand."""

from dataclasses import replace

import pytest

from shoal.core.generation.scheduler_config import prefill_chunk
from shoal.planner.predict.work import (
    Work,
    decode_work,
    group_seconds,
    prefill_work,
    prompts_work,
    step_work,
    transfer_seconds,
    wave_work,
)
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import BlockSpeed, ClipSpeed, LinkSpeed, WorkerSpeed
from tests.planner.example_speeds import MS, example_worker, line


def fixed_worker() -> WorkerSpeed:
    """2 ms and 0.5 a row fixed in attention, 1 in the MLP; context 0.01 ms for a row and a token; steps of 3 ms."""
    plain = example_worker()
    return WorkerSpeed(
        attention=BlockSpeed(
            decode=plain.attention.decode, prefill=plain.attention.prefill, fixed_s=2 * MS, fixed_row_s=0.5 * MS
        ),
        mlp=BlockSpeed(decode=plain.mlp.decode, prefill=plain.mlp.prefill, fixed_s=1 * MS),
        head=BlockSpeed(decode=plain.head.decode, prefill=plain.head.prefill, fixed_s=4 * MS),
        decode_context=line(0, 0.01),
        prefill_context_s=0.002 * MS,
        step_s=3 * MS,
    )


@pytest.mark.parametrize(("stages", "chunk"), [(1, 512), (2, 128), (4, 64), (8, 64), (100, 64)])
def test_chunks_are_those_of_the_engine(stages, chunk):
    assert prefill_chunk(stages) == chunk


def test_a_chunk_is_never_larger_than_a_step():
    assert prefill_chunk(8, max_step_tokens=32) == 32


def test_a_decode_step_adds_up():
    work = decode_work(fixed_worker(), rows=4, context=100)
    assert work.attention_fixed_s == pytest.approx(4 * MS)  # 2 + 4 x 0.5
    assert work.attention_s == pytest.approx(8 * MS)  # 4 x 1 + 4 x 100 x 0.01
    assert (work.mlp_fixed_s, work.mlp_s) == pytest.approx((1 * MS, 4 * MS))
    assert (work.head_fixed_s, work.head_s) == pytest.approx((4 * MS, 8 * MS))
    assert (work.stage_s, work.num_steps, work.num_rows) == pytest.approx((3 * MS, 1, 4))
    # 3 + 2 layers x (4 + 8 + 1 + 4) + 4 + 8
    assert work.whole_s(2, has_embedding=True, has_head=True) == pytest.approx(49 * MS)
    assert work.whole_s(2, has_embedding=False, has_head=False) == pytest.approx(37 * MS)


def test_clips_come_with_the_prompts_and_their_encoder_is_where_the_embedding_is():
    plain = fixed_worker()
    speed = replace(plain, clip=ClipSpeed(encoder_s=50 * MS, layer_s=5 * MS, num_rows=1500))
    with_clips, without = (prompts_work(one, requests=3, prompt_tokens=4, chunk_tokens=512) for one in (speed, plain))
    for has_embedding, seconds in ((True, 3 * (50 + 2 * 5) * MS), (False, 3 * 2 * 5 * MS)):
        ends = {"has_embedding": has_embedding, "has_head": True}
        assert with_clips.whole_s(2, **ends) - without.whole_s(2, **ends) == pytest.approx(seconds)
    assert with_clips.num_rows - without.num_rows == 4500, "they go from stage to stage"


def test_prompt_rows_are_priced_apart_and_only_their_ends_are_sampled():
    work = prefill_work(fixed_worker(), rows=100, context=50, samples=2)
    assert work.attention_s == pytest.approx((10 + 10) * MS)  # 100 x 0.1, 100 x 50 x 0.002
    assert work.mlp_s == pytest.approx(30 * MS)
    assert work.head_s == pytest.approx(4 * MS)
    assert work.head_fixed_s == pytest.approx(4 * MS)
    # with the head the last layer's MLP sees two rows, as output rows: 30 - 2
    assert work.saved_s == pytest.approx(28 * MS)


def test_a_step_in_which_half_a_prompt_ends_samples_every_other_time():
    work = prefill_work(fixed_worker(), rows=64, context=64, samples=0.5)
    assert work.head_s == pytest.approx(0.5 * 2 * MS)
    assert work.head_fixed_s == pytest.approx(2 * MS)


def test_prompts_fill_steps_and_leave_a_rest():
    speed = fixed_worker()
    work = prompts_work(speed, requests=3, prompt_tokens=40, chunk_tokens=50)
    context = 20.5
    steps = prefill_work(speed, rows=50, context=context, samples=50 / 40) * 2
    rest = prefill_work(speed, rows=20, context=context, samples=20 / 40)
    assert work == steps + rest
    assert work.num_steps == 3
    assert work.num_rows == 120


def test_a_wave_is_its_prompts_and_a_step_less_than_its_tokens():
    speed, workload = fixed_worker(), Workload(streams=4, prompt_tokens=50, output_tokens=11)
    wave = wave_work(speed, workload, requests=4, chunk_tokens=100)
    prompts = prompts_work(speed, requests=4, prompt_tokens=50, chunk_tokens=100)
    assert wave.num_steps == 2 + 10
    assert wave.num_rows == 200 + 40
    assert wave.mlp_s == pytest.approx(prompts.mlp_s + 10 * 4 * MS)
    assert wave.stage_s == pytest.approx(12 * 3 * MS)


def test_a_single_output_token_needs_no_decode_step():
    wave = wave_work(fixed_worker(), Workload(prompt_tokens=10, output_tokens=1), requests=1, chunk_tokens=512)
    assert wave.num_steps == 1


def test_a_group_waits_for_its_slowest_member_in_each_half_of_a_layer():
    quick = Work(attention_fixed_s=1, attention_s=10, mlp_fixed_s=2, mlp_s=20, head_fixed_s=0, head_s=8, stage_s=5)
    slow = Work(attention_fixed_s=1, attention_s=20, mlp_fixed_s=2, mlp_s=40, head_fixed_s=0, head_s=16, stage_s=6)
    seconds = group_seconds([quick, slow], [(0.75, 0.5, 0.5), (0.25, 0.5, 0.5)], num_layers=3, has_head=True, sum_s=0.5)
    attention, mlp, head = 1 + 7.5, 2 + 20, 8
    assert seconds == pytest.approx(6 + 3 * (attention + mlp + 1) + head)


def test_a_shard_without_heads_has_no_fixed_part_of_attention():
    work = Work(attention_fixed_s=1, attention_s=10)
    assert (work.attention_part(0.0), work.attention_part(0.5)) == (0.0, 6.0)


def test_a_transfer_pays_the_latency_of_every_step_and_the_bytes_of_every_row():
    link = LinkSpeed(latency_s=0.1, bytes_per_s=100)
    assert transfer_seconds(link, Work(num_steps=3, num_rows=20), hidden_bytes=10) == pytest.approx(0.3 + 2)


def test_a_step_of_both_kinds_reads_its_matrices_once():
    speed = fixed_worker()
    step = step_work(speed, output_rows=4, output_context=400, prompt_rows=96, prompt_context=96 * 50, samples=6)
    assert step.attention_s == pytest.approx((100 * 0.1 + 96 * 50 * 0.002 + 4 * 100 * 0.01) * MS)
    assert step.mlp_s == pytest.approx(30 * MS)  # 100 rows together
    assert step.head_s == pytest.approx(12 * MS)  # 6 rows
    assert (step.num_steps, step.num_rows) == (1, 100)


def test_a_step_of_one_kind_is_what_it_is_alone():
    speed = fixed_worker()
    outputs = step_work(speed, output_rows=4, output_context=400, prompt_rows=0, prompt_context=0, samples=4)
    assert outputs == decode_work(speed, rows=4, context=100)
    prompts = step_work(speed, output_rows=0, output_context=0, prompt_rows=100, prompt_context=5000, samples=2)
    assert prompts == prefill_work(speed, rows=100, context=50, samples=2)
