"""What families with Mamba-2 layers have in common: the names and the layout of their tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.recurrence.mamba import MambaConfig, joined_rows
from shoal.model.recurrence.shapes import TAPS

MAMBA_KINDS = ("linear_attention", "mamba")
"""Names of this kind of layers, in transformers 5 and before."""


def mamba_names(module: str) -> Mapping[str, str]:
    """Names of a layer's tensors that are not parts of another tensor.

    Args:
        module: the module that they belong to.
    """
    leaves = {
        "mamba_rate": "A_log",
        "mamba_start": "dt_bias",
        "mamba_skip": "D",
        "mamba_norm": "norm.weight",
        "mamba_out": "out_proj.weight",
        "mamba_out_bias": "out_proj.bias",
    }
    return {name: f"{module}.{leaf}" for name, leaf in leaves.items()}


def mamba_part(module: str) -> Callable[[DecoderConfig, str], TensorPart | None]:
    """A function that returns the place of the other names of a layer, given the configuration and the name.

    Args:
        module: the module that they belong to.
    """

    def part(config: DecoderConfig, leaf: str) -> TensorPart | None:
        rows = joined_rows(config.recurrence, leaf) if isinstance(config.recurrence, MambaConfig) else None
        if rows is None:
            return None
        tensor = "conv1d" if "_taps" in leaf else "in_proj"
        kind = "bias" if leaf.endswith("_bias") else "weight"
        return TensorPart(tensor=f"{module}.{tensor}.{kind}", start=rows[0], stop=rows[1])

    return part


def check_taps(settings: Settings, key: str) -> int:
    """Tokens that a convolution sees. Raises ModelLoadError if their number is not supported."""
    num_taps = settings.positive(key)
    if num_taps not in TAPS:
        raise ModelLoadError(f"{settings.path}: {key!r} is {num_taps}; convolutions over 2 to 4 tokens are supported")
    return num_taps


def refuse_step_limit(settings: Settings) -> None:
    """Raises ModelLoadError if steps have bounds other than 0 and infinity, which files write in several ways."""
    limit = settings.get("time_step_limit")
    if limit is None:
        return
    low, high = limit
    high = float(high.get("__float__", "nan")) if isinstance(high, dict) else high
    if low != 0 or high != math.inf:
        raise ModelLoadError(f"{settings.path}: 'time_step_limit' is {limit!r:.200}, which is not supported")
