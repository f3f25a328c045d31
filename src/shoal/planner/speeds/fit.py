"""Fitting a worker's speed to timed steps.

Points are not smoothed: a curve goes through them. Only what no single step shows is computed:

* context: slopes between steps that differ in nothing else;
* the fixed time of a step, if no shard was timed for it (devices take none): the intercept of the line through the same
  step in the long and in the short part;
* the head: what sampling adds, minus the matrices of the last layer that compute sampled rows only;
* with w(r) of a whole layer, y(r) of one with a share c of the columns and no heads, x(r) what a share a of the heads
  adds to that, and the same fixed part f(r) in attention A and in MLP M: x = f + a A, y = f + c M, w = 2 f + A + M,
  hence f = (x / a + y / c - w) / (1 / a + 1 / c - 2). A line through f(r) gives `fixed_s` and `fixed_row_s`;
  M / (A + M) divides every other point between MLP and attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shoal.planner.speeds.clips import ClipWork
from shoal.planner.speeds.lines import StraightLine, fit_line, slope
from shoal.planner.speeds.speeds import BlockSpeed, Curve, WorkerSpeed
from shoal.planner.speeds.step_points import LayerWeights, ModelPoints, PartPoints, StepKind

_MOST_FIXED = 0.8
"""The largest share of a block's time that can be fixed, however noisy the points."""
_LEAST_S = 1e-9
"""The least seconds of a block; noise can make the difference of two times negative."""

ByRows = dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contexts:
    """Seconds of attention per token of context, in one layer with all heads."""

    decode: Curve
    prefill_s: float

    def of(self, kind: StepKind) -> float:
        """Seconds of the context of one layer in a step."""
        return kind.context * (self.decode.at(kind.output_rows) + kind.prompt_rows * self.prefill_s)


def fit_worker(points: ModelPoints, weights: LayerWeights, clip: ClipWork | None = None) -> WorkerSpeed:
    """Fit a worker's speed to steps that were timed on it.

    Args:
        points: the timed steps.
        weights: the division of a layer's weights.
        clip: the work of a clip; None: the model has no encoder.
    """
    contexts = _fit_contexts(points)
    step_s = _common_s(points, contexts, weights) if points.step_s is None else points.step_s
    decode = _layers_s(points.long, step_s, contexts, weights, prompt=False)
    prefill = _layers_s(points.long, step_s, contexts, weights, prompt=True)
    prefill |= _layers_s(points.short, step_s, contexts, weights, prompt=True)
    head = _head_s(points.long, decode, weights)
    division = _divide(points, contexts, weights, decode, prefill)
    head_fixed = _head_fixed(points.half, head)
    attention_decode, mlp_decode = division.curves(decode, division.decode_mlp)
    attention_prefill, mlp_prefill = division.curves(prefill, division.prefill_mlp)
    head_curve = _curve({rows: seconds - head_fixed.at(rows) for rows, seconds in head.items()})
    fixed = division.fixed
    return WorkerSpeed(
        attention=BlockSpeed(
            decode=attention_decode, prefill=attention_prefill, fixed_s=fixed.start_s, fixed_row_s=fixed.row_s
        ),
        mlp=BlockSpeed(decode=mlp_decode, prefill=mlp_prefill, fixed_s=fixed.start_s, fixed_row_s=fixed.row_s),
        head=BlockSpeed(
            decode=head_curve, prefill=head_curve, fixed_s=head_fixed.start_s, fixed_row_s=head_fixed.row_s
        ),
        decode_context=contexts.decode,
        prefill_context_s=contexts.prefill_s,
        step_s=step_s,
        clip=None if clip is None or points.clip_s is None else clip.speed(points.clip_s, num_layers=1),
    )


def scale_worker(busy: WorkerSpeed, busy_points: ModelPoints, alone_points: ModelPoints) -> WorkerSpeed:
    """The speed of the same worker while others are idle, from some steps that were timed again.

    Output rows are scaled by the ratios of the long part's sampled steps, prompt rows by those of the short part.
    """
    decode = _ratios(alone_points.long, busy_points.long, prompt=False, sampled=True)
    prefill = _ratios(alone_points.short, busy_points.short, prompt=True, sampled=False)

    def scaled(block: BlockSpeed) -> BlockSpeed:
        return BlockSpeed(
            decode=block.decode.times(decode),
            prefill=block.prefill.times(prefill),
            fixed_s=block.fixed_s * decode.at(1),
            fixed_row_s=block.fixed_row_s * decode.at(1),
        )

    return replace(
        busy,
        attention=scaled(busy.attention),
        mlp=scaled(busy.mlp),
        head=scaled(busy.head),
        decode_context=busy.decode_context.times(decode),
        prefill_context_s=busy.prefill_context_s * prefill.at(prefill.rows[0]),
        step_s=busy.step_s * decode.at(1),
        clip=busy.clip and busy.clip.scaled(prefill.at(prefill.rows[-1])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Division:
    """How a layer's time is divided between attention and MLP."""

    fixed: StraightLine
    """The fixed time of attention, which is also that of the MLP."""
    decode_mlp: ByRows
    """The MLP's share of the time that is not fixed, at some numbers of output rows."""
    prefill_mlp: ByRows
    """The same share for prompt rows."""

    def curves(self, layer: ByRows, mlp_parts: ByRows) -> tuple[Curve, Curve]:
        """The curves of attention and of the MLP, without fixed time."""
        rows = sorted(mlp_parts)
        parts = [mlp_parts[one] for one in rows]
        attention, mlp = ByRows(), ByRows()
        for count, seconds in layer.items():
            part = float(np.interp(count, rows, parts))
            shrinking_s = seconds - 2 * self.fixed.at(count)
            attention[count], mlp[count] = (1 - part) * shrinking_s, part * shrinking_s
        return _curve(attention), _curve(mlp)


def _fit_contexts(points: ModelPoints) -> _Contexts:
    """Slopes over the contexts of the short part's steps: a curve for output rows and a number for prompt rows."""
    decode, prefill = dict[int, list[tuple[float, float]]](), dict[int, list[tuple[float, float]]]()
    for kind, seconds in points.short.seconds.items():
        by_rows = prefill if kind.prompt_rows else decode
        by_rows.setdefault(kind.rows, []).append((kind.context, seconds / points.short.num_layers))
    slopes = {rows: max(0.0, slope(pairs)) for rows, pairs in decode.items() if len(pairs) > 1}
    of_prompts = [slope(pairs) / rows for rows, pairs in prefill.items() if len(pairs) > 1]
    return _Contexts(decode=_curve(slopes or {1: 0.0}), prefill_s=max(0.0, sum(of_prompts) / max(1, len(of_prompts))))


def _layers_s(part: PartPoints, step_s: float, contexts: _Contexts, weights: LayerWeights, *, prompt: bool) -> ByRows:
    """Seconds of one layer of a part by rows, without context. In a whole last layer some matrices did not run."""
    depth, layers = _depth(part, weights), ByRows()
    for rows, (kind, seconds) in part.at_least_context(prompt=prompt).items():
        context_s = part.num_layers * part.attention * contexts.of(kind)
        layers[rows] = max(_LEAST_S, (seconds - step_s - context_s) / depth)
    return layers


def _depth(part: PartPoints, weights: LayerWeights) -> float:
    """The number of layers, as a fraction, that ran for rows that are not sampled."""
    is_whole = part.attention == part.mlp == 1.0
    return part.num_layers - (weights.behind_attention if is_whole and part.vocabulary else 0.0)


def _common_s(points: ModelPoints, contexts: _Contexts, weights: LayerWeights) -> float:
    """The fixed time of a step: the intercept of the line through its times with few and with many layers."""
    short, long = (part.at_least_context(prompt=False) for part in (points.short, points.long))
    few, many = _depth(points.short, weights), _depth(points.long, weights)
    rows = min(short.keys() & long.keys(), default=None)
    if rows is None or many <= few:
        return 0.0
    short_s, long_s = (
        part[rows][1] - of.num_layers * contexts.of(part[rows][0])
        for part, of in ((short, points.short), (long, points.long))
    )
    return min(max(0.0, short_s - few * (long_s - short_s) / (many - few)), _MOST_FIXED * short_s)


def _head_s(long: PartPoints, decode: ByRows, weights: LayerWeights) -> ByRows:
    """Seconds of the head by rows: what sampling adds, minus the last layer's matrices after attention."""
    return {
        rows: max(_LEAST_S, added_s - weights.behind_attention * decode[rows]) for rows, added_s in _added(long).items()
    }


def _added(part: PartPoints) -> ByRows:
    """Seconds that sampling adds to steps of output rows."""
    plain = part.at_least_context(prompt=False)
    sampled = part.at_least_context(prompt=False, sampled=True)
    return {rows: sampled[rows][1] - plain[rows][1] for rows in sampled if rows in plain}


def _divide(
    points: ModelPoints, contexts: _Contexts, weights: LayerWeights, decode: ByRows, prefill: ByRows
) -> _Division:
    """Divide by the shards' times; if no shards were timed, by weights and without fixed time."""
    half, columns = points.half, points.columns
    if half is None or columns is None:
        return _Division(fixed=StraightLine(), decode_mlp={1: weights.mlp}, prefill_mlp={1: weights.mlp})
    a, c = half.attention, columns.mlp
    triples: dict[bool, dict[int, tuple[float, float, float]]] = {}
    for prompt, whole in ((False, decode), (True, prefill)):
        y = _layers_s(columns, points.step_s or 0.0, contexts, weights, prompt=prompt)
        both = _layers_s(half, points.step_s or 0.0, contexts, weights, prompt=prompt)
        triples[prompt] = {rows: (both[rows] - y[rows], y[rows], whole[rows]) for rows in both.keys() & y.keys()}
    of_fixed = [
        (rows, (x / a + y / c - w) / (1 / a + 1 / c - 2), w)
        for by_rows in triples.values()
        for rows, (x, y, w) in by_rows.items()
    ]
    fixed = fit_line(of_fixed, most=_MOST_FIXED / 2)  # a layer has it twice

    def mlp_parts(prompt: bool) -> ByRows:
        parts = {1: weights.mlp} if not triples[prompt] else ByRows()
        for rows, (x, y, _) in triples[prompt].items():
            attention_s = max(_LEAST_S, (x - fixed.at(rows)) / a)
            mlp_s = max(_LEAST_S, (y - fixed.at(rows)) / c)
            parts[rows] = mlp_s / (attention_s + mlp_s)
        return parts

    return _Division(fixed=fixed, decode_mlp=mlp_parts(False), prefill_mlp=mlp_parts(True))


def _head_fixed(half: PartPoints | None, head: Mapping[int, float]) -> StraightLine:
    """The fixed time f of the head, from h = f + H of the whole head and f + v H of a share v."""
    if half is None or not 0 < half.vocabulary < 1:
        return StraightLine()
    share = half.vocabulary
    return fit_line(
        [
            (rows, (part_s / share - head[rows]) / (1 / share - 1), head[rows])
            for rows, part_s in _added(half).items()
            if rows in head
        ],
        most=_MOST_FIXED,
    )


def _ratios(numerator: PartPoints, denominator: PartPoints, *, prompt: bool, sampled: bool) -> Curve:
    below = denominator.at_least_context(prompt=prompt, sampled=sampled)
    above = numerator.at_least_context(prompt=prompt, sampled=sampled)
    ratios = {rows: above[rows][1] / below[rows][1] for rows in above if rows in below}
    return _curve(ratios or {1: 1.0})


def _curve(by_rows: Mapping[int, float]) -> Curve:
    rows = tuple(sorted(by_rows))
    return Curve(rows=rows, seconds=tuple(max(0.0, by_rows[one]) for one in rows))
