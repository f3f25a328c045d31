"""Rotary position embedding: the cosine and sine tables that the attention kernel indexes by position.

A table is made once per distinct `RopeConfig` and shared by its layers. Every scaling is a rule that turns the plain
frequencies into others, and a factor on cosine and sine.

Shapes: C max_context, R half the rotary dimensions (one frequency per rotated pair).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import RopeConfig

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Scaled = tuple[F64, float]
"""inverse frequencies [R] in radians per token, and the factor on cosine and sine"""


def rope_tables(rope: RopeConfig, max_context: int) -> tuple[F32, F32]:
    """Cosine and sine of every position's angles, computed in float64.

    `rope.scaling` is Hugging Face's `rope_scaling`. Where longrope gives neither `factor` nor `attention_factor`,
    the loader puts the model's `max_position_embeddings` beside them.

    Shapes: both results [max_context, rotary_dim / 2].
    Raises: ModelLoadError for an unknown scaling or one with a missing or impossible parameter.
    """
    kind = str(rope.scaling.get("rope_type", rope.scaling.get("type", "default")))
    rule = _RULES.get(kind)
    if rule is None:
        raise ModelLoadError(f"rope scaling {kind!r} is not supported (known: {', '.join(_RULES)})")
    try:
        with np.errstate(divide="raise", invalid="raise"):
            frequencies_R, factor = rule(rope, max_context)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelLoadError(f"rope scaling {kind!r} has a missing or wrong parameter: {error}") from error
    angles_CR = np.outer(np.arange(max_context, dtype=np.float64), frequencies_R)
    return (np.cos(angles_CR) * factor).astype(np.float32), (np.sin(angles_CR) * factor).astype(np.float32)


def _plain_frequencies(rope: RopeConfig) -> F64:
    exponents_R = np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim
    return np.asarray(rope.theta**-exponents_R)


def _default(rope: RopeConfig, max_context: int) -> Scaled:
    return _plain_frequencies(rope), 1.0


def _linear(rope: RopeConfig, max_context: int) -> Scaled:
    """Source: position interpolation, arXiv 2306.15595, equation 4."""
    return _plain_frequencies(rope) / float(rope.scaling["factor"]), 1.0


def _llama3(rope: RopeConfig, max_context: int) -> Scaled:
    """Long waves are slowed by `factor`, short ones kept, a linear blend between.

    Source: Llama 3.1 reference implementation, `apply_scaling` (meta-llama/llama-models, models/llama3).
    """
    scaling = rope.scaling
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    frequencies_R = _plain_frequencies(rope)
    turns_R = float(scaling["original_max_position_embeddings"]) * frequencies_R / (2 * math.pi)
    kept_R = np.clip((turns_R - low) / (high - low), 0.0, 1.0)
    return frequencies_R * (kept_R + (1.0 - kept_R) / float(scaling["factor"])), 1.0


def _yarn(rope: RopeConfig, max_context: int) -> Scaled:
    """Source: YaRN, arXiv 2309.00071, equations 17 to 22; beta_fast 32 and beta_slow 1 from its section 3.2."""
    scaling = rope.scaling
    factor = float(scaling["factor"])
    first, last = _yarn_blend_range(rope)
    frequencies_R = _plain_frequencies(rope)
    slowed_R = np.clip((np.arange(frequencies_R.size) - first) / max(last - first, 1e-3), 0.0, 1.0)
    return frequencies_R * (1.0 - slowed_R + slowed_R / factor), _yarn_attention_factor(scaling, factor)


def _yarn_blend_range(rope: RopeConfig) -> tuple[float, float]:
    """Pair indices between which the frequencies go from kept to slowed."""
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
    """One divisor per frequency, from the long list once the served context passes the original one.

    The choice is made once, by `max_context`: keys already in the cache could not be turned again later.
    Source: LongRoPE, arXiv 2402.13753, section 3; attention factor as in Phi-3's published configuration.
    """
    scaling = rope.scaling
    original = int(scaling["original_max_position_embeddings"])
    name = "long_factor" if max_context > original else "short_factor"
    divisors_R = np.asarray(scaling[name], dtype=np.float64)
    frequencies_R = _plain_frequencies(rope)
    if divisors_R.shape != frequencies_R.shape:
        raise ValueError(f"{name} has {divisors_R.size} values, expected {frequencies_R.size}")
    return frequencies_R / divisors_R, _longrope_attention_factor(scaling, original, max_context)


def _longrope_attention_factor(scaling: Mapping[str, Any], original: int, max_context: int) -> float:
    given = scaling.get("attention_factor")
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
