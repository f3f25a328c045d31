"""Speeds that are known, the times that steps would take with them, and what the fit makes of those."""

from dataclasses import replace

import pytest

from shoal.planner.speeds.fit import fit_worker, scale_worker
from shoal.planner.speeds.speeds import WorkerSpeed
from shoal.planner.speeds.step_points import LayerWeights, ModelPoints, PartPoints, StepKind

WEIGHTS = LayerWeights(mlp=0.6, behind_attention=0.7)
STEP, FIXED, FIXED_ROW = 3.0, 2.0, 0.5
HEAD_FIXED = 1.0
CONTEXT, PROMPT_CONTEXT = 0.01, 0.001


def attention(kind: StepKind) -> float:
    """Of one layer with all heads, without what is fixed."""
    return 1.0 * kind.output_rows + 0.2 * kind.prompt_rows


def mlp(kind: StepKind) -> float:
    """The same with all columns: 30 % of a row at 1 row, 50 % at more."""
    return (0.5 if kind.output_rows == 1 else 1.0) * kind.output_rows + 0.6 * kind.prompt_rows


def context(kind: StepKind) -> float:
    return kind.context * (CONTEXT * kind.output_rows + PROMPT_CONTEXT * kind.prompt_rows)


def seconds(kind: StepKind, *, layers: int, heads: float = 1.0, columns: float = 1.0, vocabulary: float = 0.0) -> float:
    """A step through a part. Of a whole last layer what lies behind attention runs only where rows are sampled."""
    fixed = FIXED + FIXED_ROW * kind.rows
    own = (fixed + heads * (attention(kind)) if heads else 0.0) + fixed + columns * mlp(kind)
    is_cut = heads == columns == 1.0 and vocabulary > 0
    total = STEP + layers * (own + heads * context(kind))
    if is_cut:
        total -= WEIGHTS.behind_attention * own
    if kind.is_sampled:
        total += HEAD_FIXED + vocabulary * 2.0 * kind.rows + (WEIGHTS.behind_attention * own if is_cut else 0.0)
    return total


def part(kinds: list[StepKind], layers: int, **shares: float) -> PartPoints:
    names = {"heads": "attention", "columns": "mlp", "vocabulary": "vocabulary"}
    return PartPoints(
        num_layers=layers,
        seconds={kind: seconds(kind, layers=layers, **shares) for kind in kinds},
        **{names[name]: share for name, share in shares.items()},
    )


def steps(*rows: int, prompt: bool = False, sampled: bool = False, context: float = 33.0) -> list[StepKind]:
    return [StepKind(0 if prompt else count, count if prompt else 0, context, sampled) for count in rows]


def long_steps() -> list[StepKind]:
    return [*steps(1, 2, 8), *steps(1, 2, 8, sampled=True), *steps(16, prompt=True)]


def all_points(*, with_shards: bool = True) -> ModelPoints:
    shard_steps = [*steps(1, 8), *steps(1, 8, sampled=True), *steps(16, prompt=True)]
    return ModelPoints(
        long=part(long_steps(), 4, vocabulary=1.0),
        short=part(
            [
                *steps(64, 256, prompt=True),
                *steps(64, prompt=True, context=500.0),
                *steps(1, 8),
                *steps(1, 8, context=481.0),
            ],
            2,
        ),
        half=part(shard_steps, 4, heads=0.75, columns=0.5, vocabulary=0.5) if with_shards else None,
        columns=part(shard_steps, 4, heads=0.0, columns=0.5, vocabulary=0.5) if with_shards else None,
        step_s=STEP,
    )


@pytest.fixture(scope="module")
def fitted() -> WorkerSpeed:
    return fit_worker(all_points(), WEIGHTS)


def test_what_every_shard_pays_is_told_from_what_it_shares(fitted):
    for block in (fitted.attention, fitted.mlp):
        assert (block.fixed_s, block.fixed_row_s) == pytest.approx((FIXED, FIXED_ROW))
    assert (fitted.head.fixed_s, fitted.head.fixed_row_s) == pytest.approx((HEAD_FIXED, 0.0), abs=1e-9)


def test_a_layer_is_divided_between_attention_and_mlp(fitted):
    for rows in (1, 8):
        (kind,) = steps(rows)
        assert fitted.attention.decode.at(rows) == pytest.approx(attention(kind))
        assert fitted.mlp.decode.at(rows) == pytest.approx(mlp(kind))
    for rows in (16, 64, 256):
        (kind,) = steps(rows, prompt=True)
        assert fitted.attention.prefill.at(rows) == pytest.approx(attention(kind))
        assert fitted.mlp.prefill.at(rows) == pytest.approx(mlp(kind))


def test_where_no_shard_was_timed_the_layer_still_adds_up(fitted):
    (kind,) = steps(2)
    layer = fitted.attention.decode.at(2) + fitted.mlp.decode.at(2)
    assert layer == pytest.approx(attention(kind) + mlp(kind))


def test_the_head_is_what_sampling_adds_without_the_last_layer(fitted):
    assert [fitted.head.decode.at(rows) for rows in (1, 2, 8)] == pytest.approx([2.0, 4.0, 16.0])


def test_context_is_told_from_rows(fitted):
    assert [fitted.decode_context.at(rows) for rows in (1, 8)] == pytest.approx([CONTEXT, 8 * CONTEXT])
    assert fitted.prefill_context_s == pytest.approx(PROMPT_CONTEXT)


def test_one_worker_alone_is_divided_by_weights():
    speed = fit_worker(all_points(with_shards=False), WEIGHTS)
    (kind,) = steps(8)
    layer = attention(kind) + mlp(kind) + 2 * (FIXED + FIXED_ROW * 8)
    assert speed.mlp.decode.at(8) == pytest.approx(0.6 * layer)
    assert speed.attention.decode.at(8) == pytest.approx(0.4 * layer)
    assert (speed.mlp.fixed_s, speed.head.fixed_s) == (0.0, 0.0)


def test_a_step_by_itself_is_told_from_few_and_many_layers_where_no_shard_was_timed_for_it():
    points = replace(all_points(with_shards=False), step_s=None)
    speed = fit_worker(points, WEIGHTS)
    assert speed.step_s == pytest.approx(STEP)
    assert speed.mlp.decode.at(8) == pytest.approx(fit_worker(all_points(with_shards=False), WEIGHTS).mlp.decode.at(8))
    noisy = {kind: time / 3 for kind, time in points.long.seconds.items()}
    speed = fit_worker(replace(points, long=replace(points.long, seconds=noisy)), WEIGHTS)
    (kind,) = steps(1)
    assert 0.0 < speed.step_s < points.short.seconds[kind]
    assert min(speed.mlp.decode.seconds) > 0.0


def test_noise_never_makes_a_time_negative():
    """Shards that are slower than half of everything, and sampling that is faster than none."""
    points = all_points()
    assert points.half is not None
    assert points.columns is not None
    broken = ModelPoints(
        long=PartPoints(
            num_layers=4,
            vocabulary=1.0,
            seconds={kind: time / (10 if kind.is_sampled else 1) for kind, time in points.long.seconds.items()},
        ),
        short=PartPoints(num_layers=2, seconds={kind: 5.0 - kind.context / 1e3 for kind in points.short.seconds}),
        half=PartPoints(
            num_layers=4,
            attention=0.75,
            mlp=0.5,
            vocabulary=0.5,
            seconds={kind: 3 * time for kind, time in points.half.seconds.items()},
        ),
        columns=points.columns,
        step_s=STEP,
    )
    speed = fit_worker(broken, WEIGHTS)
    for block in (speed.attention, speed.mlp, speed.head):
        assert min((*block.decode.seconds, *block.prefill.seconds, block.fixed_s, block.fixed_row_s)) >= 0.0
    assert speed.prefill_context_s == 0.0
    assert min(speed.decode_context.seconds) == 0.0


def test_a_worker_alone_is_scaled_by_what_was_timed_alone(fitted):
    busy = all_points()
    alone = ModelPoints(
        long=PartPoints(
            num_layers=4,
            vocabulary=1.0,
            seconds={
                kind: busy.long.seconds[kind] * (0.5 if kind.rows == 1 else 0.75) for kind in steps(1, 8, sampled=True)
            },
        ),
        short=PartPoints(
            num_layers=2, seconds={kind: busy.short.seconds[kind] * 0.9 for kind in steps(64, prompt=True)}
        ),
    )
    speed = scale_worker(fitted, busy, alone)
    assert speed.mlp.decode.at(1) == pytest.approx(0.5 * fitted.mlp.decode.at(1))
    assert speed.mlp.decode.at(8) == pytest.approx(0.75 * fitted.mlp.decode.at(8))
    assert speed.attention.prefill.at(256) == pytest.approx(0.9 * fitted.attention.prefill.at(256))
    assert speed.head.fixed_s == pytest.approx(0.5 * fitted.head.fixed_s)
