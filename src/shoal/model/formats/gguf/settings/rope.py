"""The rotary position embedding in a GGUF file: keys of its metadata, and three tensors that complete them.

Source of the keys: GGUF specification and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.formats.config_check import number
from shoal.model.formats.gguf.settings.keys import GgufSettings
from shoal.model.formats.rope_axes import axes_in_runs, axes_in_turn
from shoal.model.layer_config.attention import RopeConfig

GEMMA3_LOCAL_THETA = 10000.0
"""Source: Gemma 3 report, arXiv 2503.19786, section 2"""
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors that complete the metadata of the rotary embedding."""


def rope_of(settings: GgufSettings, head_dim: int) -> RopeConfig:
    """The rotary embedding of layers without a window, to which three tensors of Llama 3 and Phi-3 files belong.

    Source: llama.cpp, llama_model::get_rope_factors: divisors of all frequencies take precedence over lists for short
    and long contexts, and scaling applies in addition to the divisors.
    """
    divisors = settings.vector("rope_freqs.weight")
    rotary_dim = _rotary_dim(settings, head_dim)
    return RopeConfig(
        theta=settings.number("rope.freq_base", 10000.0),
        rotary_dim=rotary_dim,
        axes=_axes(settings, rotary_dim // 2),
        scaling=_rope_scaling(settings, has_divisors=divisors is not None),
        divisors=tuple(divisors or ()),
        magnitude=settings.number("rope.scaling.attn_factor", 1.0),
    )


def local_rope_of(settings: GgufSettings, head_dim: int) -> RopeConfig | None:
    """The rotary embedding of layers with a window; None if it is that of all layers."""
    if not settings.known.local_rope:
        return None
    if settings.known.local_rope == "unscaled":
        return replace(rope_of(settings, head_dim), scaling={})
    return RopeConfig(
        theta=settings.number("rope.freq_base_swa", GEMMA3_LOCAL_THETA),
        rotary_dim=settings.positive("rope.dimension_count_swa", _rotary_dim(settings, head_dim)),
    )


def _rotary_dim(settings: GgufSettings, head_dim: int) -> int:
    return settings.positive("rope.dimension_count", head_dim)


def _axes(settings: GgufSettings, num_frequencies: int) -> tuple[int, ...]:
    """`RopeConfig.axes` of a vision model, whose file gives the number of frequencies for time, height and width; else
    empty."""
    shares = settings.array("rope.dimension_sections") if settings.known.axes else None
    if shares is None:
        return ()
    if any(type(one) is not int or one < 0 for one in shares) or sum(shares) != num_frequencies or any(shares[3:]):
        raise ModelLoadError(
            f"{settings.header.path}: rope.dimension_sections are {shares!r:.200}, of {num_frequencies} frequencies"
        )
    return (axes_in_runs if settings.known.axes == "in runs" else axes_in_turn)(shares[:3])


def _rope_scaling(settings: GgufSettings, *, has_divisors: bool) -> dict[str, Any]:
    """The scaling with the keys of a Hugging Face config.json."""
    max_context = settings.positive("context_length")
    original = settings.positive("rope.scaling.original_context_length", max_context)
    short, long = settings.vector("rope_factors_short.weight"), settings.vector("rope_factors_long.weight")
    if (short is None) != (long is None):
        raise ModelLoadError(
            f"{settings.header.path} has rotary factors only for short or only for long contexts, not for both"
        )
    if short and long and not has_divisors:
        return {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "factor": max_context / original,
            "original_max_position_embeddings": original,
            "attention_factor": 1.0,
        }
    kind = settings.get("rope.scaling.type", "linear")
    factor = number("rope.scaling.factor", settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 1.0)))
    if kind == "none" or factor in (0.0, 1.0):
        return {}
    if kind not in ("linear", "yarn"):
        raise ModelLoadError(f"{settings.header.path}: rope scaling {kind!r} is not supported")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if kind == "linear":
        return scaling
    scaling |= {"original_max_position_embeddings": original, **_yarn(settings)}
    return {**scaling, "truncate": False} if settings.architecture == "gpt-oss" else scaling


def _yarn(settings: GgufSettings) -> dict[str, Any]:
    """What a file says beyond the factor.

    Source: llama.cpp, convert_hf_to_gguf.py: `yarn_attn_factor` is the configuration's `attention_factor`, and
    `yarn_log_multiplier` its `mscale_all_dim`, with an `mscale` of 1; llama-context.cpp.
    """
    keys = {
        "beta_fast": "rope.scaling.yarn_beta_fast",
        "beta_slow": "rope.scaling.yarn_beta_slow",
        "attention_factor": "rope.scaling.yarn_attn_factor",
        "extrapolation_factor": "rope.scaling.yarn_ext_factor",
        "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
    }
    given = {ours: settings.number(theirs) for ours, theirs in keys.items() if settings.get(theirs) is not None}
    if settings.architecture == "deepseek2":  # the file has a tenth of it, and `mscale` is the same
        whole = given.get("mscale_all_dim", 0.0) * 10
        return given | {"mscale": whole, "mscale_all_dim": whole}
    return {**given, "mscale": 1.0} if "mscale_all_dim" in given else given
