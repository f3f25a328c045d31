"""Recurrent layers of a GGUF file: their settings, and where their tensors lie.

Source of keys and order: llama.cpp, conversion/lfm2.py, mamba.py (Mamba2Model) and qwen.py (Qwen3NextModel, and the
order of value heads of _LinearAttentionVReorderBase).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.kinds import RecurrenceConfig
from shoal.model.recurrence.mamba import MambaConfig, joined_rows
from shoal.model.recurrence.shapes import TAPS
from shoal.model.recurrence.short_conv import ShortConvConfig

RECURRENT_NAMES: Mapping[str, str] = {
    "conv_taps": "shortconv.conv.weight",
    "conv_out": "shortconv.out_proj.weight",
    "delta_z": "attn_gate.weight",
    "delta_write": "ssm_beta.weight",
    "delta_decay": "ssm_alpha.weight",
    "delta_rate": "ssm_a",
    "delta_dt": "ssm_dt.bias",
    "delta_norm": "ssm_norm.weight",
    "delta_out": "ssm_out.weight",
    "mamba_rate": "ssm_a",
    "mamba_start": "ssm_dt.bias",
    "mamba_skip": "ssm_d",
    "mamba_norm": "ssm_norm.weight",
    "mamba_out": "ssm_out.weight",
    "mamba_out_bias": "ssm_out.bias",
}
FLAT = ("ssm_a", "ssm_d", "ssm_norm.weight")
"""Ends of the names of vectors that Mamba-2 files have as matrices."""
MIXER_MARKS = ("attn_q.weight", "attn_qkv.weight", "ssm_in.weight", "ssm_a", "shortconv.in_proj.weight")
"""Tensors of which every layer with attention or a recurrence has one."""
_TURNING = ("qwen35", "qwen35moe")
"""Architectures whose consecutive value heads belong to different key heads."""
CONVOLUTIONS = (RECURRENT_NAMES["conv_taps"], "ssm_conv1d.weight")
"""Ends of the names of convolution taps, which lack the axis of 1 between channels and taps."""


def recurrence_of(
    architecture: str,
    *,
    tensors: Collection[str],
    num_layers: int,
    positive: Callable[[str], int],
    norm_epsilon: float,
    hidden_size: int,
) -> RecurrenceConfig | None:
    """The recurrent layers of a file, found by their tensors; None if it has none.

    Args:
        architecture: one that has recurrent layers.
        tensors: names of all tensors.
        num_layers: of the model.
        positive: returns a number of the metadata by its key without the architecture.
        norm_epsilon: of the model.
        hidden_size: of the model.

    Raises:
        ValueError: a setting is not supported.
    """

    def layers_with(mark: str) -> tuple[int, ...]:
        return tuple(layer for layer in range(num_layers) if f"blk.{layer}.{mark}" in tensors)

    short = layers_with("shortconv.in_proj.weight")
    layers = short or layers_with("ssm_a")
    if not layers:
        return None
    num_taps = positive("shortconv.l_cache" if short else "ssm.conv_kernel")
    if num_taps not in TAPS:
        raise ValueError(f"convolutions over {num_taps} tokens; 2 to 4 are supported")
    if short:
        return ShortConvConfig(layers=layers, channels=hidden_size, num_taps=num_taps)
    groups, heads, inner = positive("ssm.group_count"), positive("ssm.time_step_rank"), positive("ssm.inner_size")
    if heads % groups or inner % heads:
        raise ValueError(f"{heads} heads over {inner} columns cannot share {groups} key heads or groups evenly")
    first = f"blk.{layers[0]}."
    if f"{first}ssm_in.weight" in tensors:
        return MambaConfig(
            layers=layers,
            num_groups=groups,
            heads_per_group=heads // groups,
            head_dim=inner // heads,
            state_dim=positive("ssm.state_size"),
            num_taps=num_taps,
            norm_epsilon=norm_epsilon,
            taps_bias=f"{first}ssm_conv1d.bias" in tensors,
            biases=f"{first}ssm_in.bias" in tensors,
        )
    return DeltaNetConfig(
        layers=layers,
        num_key_heads=groups,
        value_heads_per_key=heads // groups,
        key_dim=positive("ssm.state_size"),
        value_dim=inner // heads,
        num_taps=num_taps,
        norm_epsilon=norm_epsilon,
        in_turn=architecture in _TURNING and heads > groups,
    )


def recurrent_part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """The part of a tensor that holds one of a layer's names that has no tensor of its own; `tensor` is without the
    layer's prefix. None: the name has its own tensor."""
    recurrence, dim = config.recurrence, config.head_dim
    if config.gates_attention and leaf in ("q", "q_gate"):
        start = 0 if leaf == "q" else dim
        return TensorPart(tensor="attn_q.weight", start=start, stop=2 * config.num_heads * dim, step=2 * dim, run=dim)
    match recurrence:
        case ShortConvConfig():
            if leaf not in recurrence.inputs:
                return None
            start = recurrence.inputs.index(leaf) * recurrence.channels
            return TensorPart(tensor="shortconv.in_proj.weight", start=start, stop=start + recurrence.channels)
        case DeltaNetConfig():
            return _delta_part(recurrence, leaf)
        case MambaConfig():
            return _mamba_part(recurrence, leaf)
        case None:
            return None


def _mamba_part(recurrence: MambaConfig, leaf: str) -> TensorPart | None:
    rows = joined_rows(recurrence, leaf)
    if rows is None:
        return None
    tensor, kind = "ssm_conv1d" if "_taps" in leaf else "ssm_in", "bias" if leaf.endswith("_bias") else "weight"
    return TensorPart(tensor=f"{tensor}.{kind}", start=rows[0], stop=rows[1])


def _delta_part(recurrence: DeltaNetConfig, leaf: str) -> TensorPart | None:
    """Queries, keys and values lie below each other, in the projection as in the convolution; in files of Qwen3-Next,
    so do write strength and decay, key head by key head."""
    name, heads = leaf.removesuffix("_taps"), recurrence.num_key_heads
    if name in recurrence.inputs[:3]:
        rows = [recurrence.num_rows(one) for one in recurrence.inputs[:3]]
        index = recurrence.inputs.index(name)
        tensor = "attn_qkv.weight" if leaf == name else "ssm_conv1d.weight"
        return TensorPart(tensor=tensor, start=sum(rows[:index]), stop=sum(rows[: index + 1]))
    if recurrence.in_turn or leaf not in ("delta_write", "delta_decay"):
        return None
    each = recurrence.value_heads_per_key
    start = 0 if leaf == "delta_write" else each
    return TensorPart(tensor="ssm_ba.weight", start=start, stop=2 * heads * each, step=2 * each, run=each)
