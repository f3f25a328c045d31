"""Recurrent layers of a GGUF file: their settings, and where their tensors lie.

Source of keys and order: llama.cpp, conversion/lfm2.py and conversion/qwen.py (Qwen3NextModel, and the order of value
heads of _LinearAttentionVReorderBase).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.recurrence import TAPS, DeltaNetConfig, RecurrenceConfig, ShortConvConfig

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
}
CONVOLUTIONS = (RECURRENT_NAMES["conv_taps"], "ssm_conv1d.weight")
"""ends of the names of convolutions' taps, which lack the axis that their channels are alone on"""


def recurrence_of(
    architecture: str,
    *,
    tensors: Collection[str],
    num_layers: int,
    positive: Callable[[str], int],
    norm_epsilon: float,
    hidden_size: int,
) -> RecurrenceConfig | None:
    """The recurrent layers of a file: those that have the tensors of it.

    Args:
        architecture: one that has such layers.
        tensors: names of all.
        num_layers: of the model.
        positive: gives a number of the metadata by its key without the architecture.
        norm_epsilon: of the model.
        hidden_size: of the model.

    Raises:
        ValueError: a setting that is not supported.
    """
    mark = "shortconv.in_proj.weight" if architecture == "lfm2" else "ssm_a"
    layers = tuple(layer for layer in range(num_layers) if f"blk.{layer}.{mark}" in tensors)
    if not layers:
        return None
    num_taps = positive("shortconv.l_cache" if architecture == "lfm2" else "ssm.conv_kernel")
    if num_taps not in TAPS:
        raise ValueError(f"convolutions over {num_taps} tokens; 2 to 4 are supported")
    if architecture == "lfm2":
        return ShortConvConfig(layers=layers, channels=hidden_size, num_taps=num_taps)
    key_heads, value_heads = positive("ssm.group_count"), positive("ssm.time_step_rank")
    inner = positive("ssm.inner_size")
    if value_heads % key_heads or inner % value_heads:
        raise ValueError(f"{value_heads} value heads over {inner} columns cannot share {key_heads} key heads evenly")
    return DeltaNetConfig(
        layers=layers,
        num_key_heads=key_heads,
        value_heads_per_key=value_heads // key_heads,
        key_dim=positive("ssm.state_size"),
        value_dim=inner // value_heads,
        num_taps=num_taps,
        norm_epsilon=norm_epsilon,
        in_turn=architecture == "qwen35",
    )


def recurrent_part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """Where a name of a layer lies that has no tensor of its own, without what stands before the layer's tensors."""
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
        case None:
            return None


def _delta_part(recurrence: DeltaNetConfig, leaf: str) -> TensorPart | None:
    """Queries, keys and values under each other, in the projection as in the convolution; and, in files of Qwen3-Next,
    what is written and decays of a key head, then of the next."""
    name, heads = leaf.removesuffix("_taps"), recurrence.num_key_heads
    if name in recurrence.inputs[:3]:
        rows = [heads * recurrence.rows_of_piece(one) for one in recurrence.inputs[:3]]
        index = recurrence.inputs.index(name)
        tensor = "attn_qkv.weight" if leaf == name else "ssm_conv1d.weight"
        return TensorPart(tensor=tensor, start=sum(rows[:index]), stop=sum(rows[: index + 1]))
    if recurrence.in_turn or leaf not in ("delta_write", "delta_decay"):
        return None
    each = recurrence.value_heads_per_key
    start = 0 if leaf == "delta_write" else each
    return TensorPart(tensor="ssm_ba.weight", start=start, stop=2 * heads * each, step=2 * each, run=each)
