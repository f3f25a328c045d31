"""Rotary position embedding: the tables of cosine and sine that the attention kernel indexes by position.

Layers with equal `RopeConfig` share a table. Every scaling is a rule that changes the plain frequencies, and a factor
on cosine and sine.

Shapes: C max_context, R half the rotary dimensions (one frequency for each rotated pair).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.arrays import F32, F64
from shoal.errors import ModelLoadError
from shoal.model.layer_config.attention import QueryScaling, RopeConfig

Scaled = tuple[F64, float]
"""Inverse frequencies [R] in radians per token, and the factor on cosine and sine."""


_ROWS_AT_ONCE = 4096
"""Positions whose angles are computed at once, which bounds the float64 temporaries."""


def rope_tables(rope: RopeConfig, max_context: int, num_rows: int | None = None) -> tuple[F32, F32]:
    """Cosine and sine of positions' angles, computed in float64.

    `rope.scaling` is Hugging Face's `rope_scaling`. If longrope gives neither `factor` nor `attention_factor`, the
    loader adds a factor from the model's `max_position_embeddings`.

    Args:
        rope: of the layers.
        max_context: longest sequence in tokens that is served, by which longrope chooses its list.
        num_rows: number of positions; None: `max_context`.

    Shapes: both results [num_rows, rotary_dim / 2].
    Raises: ModelLoadError for an unknown scaling or one with a missing or impossible parameter.
    """
    frequencies_R, factor = scaled_frequencies(rope, max_context)
    shape = (max_context if num_rows is None else num_rows, frequencies_R.size)
    cos_CR, sin_CR = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for start in range(0, shape[0], _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, shape[0]))
        angles_CR = np.outer(np.arange(rows.start, rows.stop, dtype=np.float64), frequencies_R)
        cos_CR[rows] = np.cos(angles_CR) * factor
        sin_CR[rows] = np.sin(angles_CR) * factor
    return cos_CR, sin_CR


def query_scales(scaling: QueryScaling, num_positions: int) -> F32:
    """The factors on queries at each position, [num_positions], computed in float64."""
    steps_C = np.floor((np.arange(num_positions, dtype=np.float64) + scaling.offset) / scaling.period)
    return (1.0 + scaling.strength * np.log1p(steps_C)).astype(np.float32)


def scaled_frequencies(rope: RopeConfig, max_context: int) -> Scaled:
    """Inverse frequencies in radians per token and the factor on cosine and sine, with every scaling. Raises
    ModelLoadError as `rope_tables` does."""
    kind = str(rope.scaling.get("rope_type", rope.scaling.get("type", "default")))
    rule = _RULES.get(kind)
    if rule is None:
        raise ModelLoadError(f"rope scaling {kind!r} is not supported (known: {', '.join(_RULES)})")
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            frequencies_R, factor = rule(rope, max_context)
            if rope.divisors:
                frequencies_R = frequencies_R / _per_frequency("divisors", rope.divisors, frequencies_R)
            if not np.all(frequencies_R >= 0) or not np.isfinite(factor):
                raise ValueError("its frequencies are no numbers from 0 on")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelLoadError(f"rope scaling {kind!r} has a missing or wrong parameter: {error}") from error
    if not (np.isfinite(frequencies_R).all() and math.isfinite(factor * rope.magnitude)):
        raise ModelLoadError(f"rope scaling {kind!r} has a parameter that is out of all proportion")
    return frequencies_R, factor * rope.magnitude


def _per_frequency(name: str, values: Sequence[float], frequencies_R: F64) -> F64:
    values_R = np.asarray(values, dtype=np.float64)
    if values_R.shape != frequencies_R.shape:
        raise ValueError(f"{name} has {values_R.size} values, expected {frequencies_R.size}")
    return values_R


def plain_frequencies(rope: RopeConfig) -> F64:
    """Inverse frequencies [R] without any scaling."""
    exponents_R = np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim
    return np.asarray(rope.theta**-exponents_R)


def _default(rope: RopeConfig, max_context: int) -> Scaled:
    return plain_frequencies(rope), 1.0


def _linear(rope: RopeConfig, max_context: int) -> Scaled:
    """Source: position interpolation, arXiv 2306.15595, equation 4."""
    return plain_frequencies(rope) / float(rope.scaling["factor"]), 1.0


def _llama3(rope: RopeConfig, max_context: int) -> Scaled:
    """Long waves are slowed by `factor`, short ones kept, with a linear blend between.

    Source: Llama 3.1 reference implementation, `apply_scaling` (meta-llama/llama-models, models/llama3).
    """
    scaling = rope.scaling
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    frequencies_R = plain_frequencies(rope)
    turns_R = float(scaling["original_max_position_embeddings"]) * frequencies_R / (2 * math.pi)
    kept_R = np.clip((turns_R - low) / (high - low), 0.0, 1.0)
    return frequencies_R * (kept_R + (1.0 - kept_R) / float(scaling["factor"])), 1.0


def _yarn(rope: RopeConfig, max_context: int) -> Scaled:
    """Source: YaRN, arXiv 2309.00071, equations 17 to 22; beta_fast 32 and beta_slow 1 from its section 3.2; the
    extrapolation factor of llama.cpp, rope_yarn in ggml-cpu/ops.cpp.
    """
    scaling = rope.scaling
    factor = float(scaling["factor"])
    first, last = _yarn_blend_range(rope)
    frequencies_R = plain_frequencies(rope)
    slowed_R = np.clip((np.arange(frequencies_R.size) - first) / (last - first or 1e-3), 0.0, 1.0)
    kept_R = (1.0 - slowed_R) * float(scaling.get("extrapolation_factor", 1.0))
    return frequencies_R * (kept_R + (1.0 - kept_R) / factor), _yarn_attention_factor(scaling, factor)


def _yarn_blend_range(rope: RopeConfig) -> tuple[float, float]:
    """Numbers of the pairs between which frequencies change from kept to slowed."""
    scaling = rope.scaling
    original = float(scaling["original_max_position_embeddings"])

    def pair_with_turns(turns: float) -> float:
        return rope.rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first = pair_with_turns(float(scaling.get("beta_fast") or 32))
    last = pair_with_turns(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    return max(first, 0), min(last, rope.rotary_dim - 1)


def _yarn_attention_factor(scaling: Mapping[str, Any], factor: float) -> float:
    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return magnitude(float(over)) / magnitude(float(under)) if over and under else magnitude(1.0)


def _longrope(rope: RopeConfig, max_context: int) -> Scaled:
    """One divisor for each frequency, from the long list if the served context is longer than the original one.

    The choice depends on `max_context` only, since keys in the cache cannot be rotated again later.
    Source: LongRoPE, arXiv 2402.13753, section 3; attention factor as in Phi-3's published configuration.
    """
    scaling = rope.scaling
    original = int(scaling["original_max_position_embeddings"])
    name = "long_factor" if max_context > original else "short_factor"
    frequencies_R = plain_frequencies(rope)
    divisors_R = _per_frequency(name, scaling[name], frequencies_R)
    return frequencies_R / divisors_R, _longrope_attention_factor(scaling, original, max_context)


def _longrope_attention_factor(scaling: Mapping[str, Any], original: int, max_context: int) -> float:
    given = scaling.get("attention_factor", scaling.get("long_mscale" if max_context > original else "short_mscale"))
    if given is not None:
        return float(given)
    factor = scaling.get("factor")
    extension = float(factor) if factor else int(scaling.get("max_position_embeddings", max_context)) / original
    return math.sqrt(1.0 + math.log(extension) / math.log(original)) if extension > 1.0 else 1.0


_RULES: Mapping[str, Callable[[RopeConfig, int], Scaled]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
