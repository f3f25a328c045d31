"""Qwen3-Next and Qwen 3.5: the gated delta rule in most layers, attention with an output gate in the others. Source:
transformers, models/qwen3_next, models/qwen3_5, models/qwen3_5_moe."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import BUFFERS, EXPERT_NAMES, LAYER_NAMES, OTHER_MODALITIES, Family
from shoal.model.formats.huggingface.families.qwen import qwen_experts
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.shapes import TAPS

_ATTENTION, _DELTA = "full_attention", "linear_attention"
_COMMON = {
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.25,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_NEXT_DEFAULTS = {
    **_COMMON,
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "norm_topk_prob": True,
}
_NEW_DEFAULTS = {
    **_COMMON,
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
}
_NEW_MOE_DEFAULTS = {
    **_NEXT_DEFAULTS,
    "vocab_size": 248320,
    "num_hidden_layers": 40,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}
_NAMES = {
    **LAYER_NAMES,
    "delta_z": "linear_attn.in_proj_z.weight",
    "delta_write": "linear_attn.in_proj_b.weight",
    "delta_decay": "linear_attn.in_proj_a.weight",
    "delta_rate": "linear_attn.A_log",
    "delta_dt": "linear_attn.dt_bias",
    "delta_norm": "linear_attn.norm.weight",
    "delta_out": "linear_attn.out_proj.weight",
}


_STACKED = {
    "experts.*.gate": "mlp.experts.gate_up_proj",
    "experts.*.up": "mlp.experts.gate_up_proj",
    "experts.*.down": "mlp.experts.down_proj",
}
"""Names for Qwen 3.5, whose files have experts stacked or one by one."""


def _read_new(settings: Settings) -> DecoderConfig:
    return settings.decoder(**_common(settings))


def _read_next(settings: Settings) -> DecoderConfig:
    shared_columns = settings.positive("shared_expert_intermediate_size")
    return settings.decoder(**_common(settings), **qwen_experts(settings, shared_columns=shared_columns))


def _common(settings: Settings) -> dict[str, Any]:
    has_bias = settings.flag("attention_bias")
    if has_bias:
        raise ModelLoadError(f"{settings.path}: 'attention_bias' is not supported beside an output gate")
    return {
        "rope": settings.rope(is_partial=True),
        "qk_norm": True,
        "gates_attention": True,
        "recurrence": _recurrence(settings),
    }


def _recurrence(settings: Settings) -> DeltaNetConfig | None:
    num_taps = settings.positive("linear_conv_kernel_dim")
    if num_taps not in TAPS:
        raise ModelLoadError(f"{settings.path}: 'linear_conv_kernel_dim' is {num_taps}; 2 to 4 tokens are supported")
    key_heads = settings.positive("linear_num_key_heads")
    value_heads = settings.positive("linear_num_value_heads")
    if value_heads % key_heads:
        raise ModelLoadError(f"{settings.path}: {value_heads} value heads cannot share {key_heads} key heads evenly")
    layers, interval = range(settings.num_layers), settings.positive("full_attention_interval")
    default = [_DELTA if (layer + 1) % interval else _ATTENTION for layer in layers]
    recurrent = settings.layers_of_type(_DELTA, others=(_ATTENTION,), default=default)
    if not recurrent:
        return None
    return DeltaNetConfig(
        layers=recurrent,
        num_key_heads=key_heads,
        value_heads_per_key=value_heads // key_heads,
        key_dim=settings.positive("linear_key_head_dim"),
        value_dim=settings.positive("linear_value_head_dim"),
        num_taps=num_taps,
        norm_epsilon=settings.number("rms_norm_eps"),
    )


def _new_part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """Queries, keys and values lie below each other, in the projection as in the convolution."""
    recurrence = config.recurrence
    tensor = {"": "linear_attn.in_proj_qkv.weight", "_taps": "linear_attn.conv1d.weight"}
    name = leaf.removesuffix("_taps")
    if not isinstance(recurrence, DeltaNetConfig) or name not in recurrence.inputs[:3]:
        return _gated_queries(config, leaf)
    start = 0
    for before in recurrence.inputs[: recurrence.inputs.index(name)]:
        start += recurrence.num_rows(before)
    stop = start + recurrence.num_rows(name)
    return TensorPart(tensor=tensor[leaf.removeprefix(name)], start=start, stop=stop)


def _next_part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """Queries, keys, values and gates of one key head lie before those of the next; so do write strength and decay."""
    recurrence = config.recurrence
    if not isinstance(recurrence, DeltaNetConfig) or leaf not in recurrence.inputs:
        return _new_part(config, leaf)
    is_number = leaf in recurrence.inputs[4:]
    together = recurrence.inputs[4:] if is_number else recurrence.inputs[:4]
    runs = [recurrence.rows_of_piece(name) for name in together]
    index = together.index(leaf)
    return TensorPart(
        tensor="linear_attn.in_proj_ba.weight" if is_number else "linear_attn.in_proj_qkvz.weight",
        start=sum(runs[:index]),
        stop=recurrence.num_key_heads * sum(runs),
        step=sum(runs),
        run=runs[index],
    )


def _gated_queries(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """A head's queries are followed by its gate, then the next head's queries."""
    if leaf not in ("q", "q_gate"):
        return None
    dim = config.head_dim
    return TensorPart(
        tensor="self_attn.q_proj.weight",
        start=0 if leaf == "q" else dim,
        stop=2 * config.num_heads * dim,
        step=2 * dim,
        run=dim,
    )


def _without_drafts(needless: re.Pattern[str]) -> re.Pattern[str]:
    """Adds layers that predict further tokens to the tensors that are not needed."""
    return re.compile(rf"{needless.pattern}|mtp\..*")


QWEN3_NEXT = Family(
    read=_read_next,
    defaults=_NEXT_DEFAULTS,
    names={**_NAMES, **EXPERT_NAMES},
    part=_next_part,
    norms_add_one=True,
    needless=_without_drafts(BUFFERS),
)
QWEN3_5_TEXT = Family(
    read=_read_new,
    defaults=_NEW_DEFAULTS,
    names=_NAMES,
    part=_new_part,
    norms_add_one=True,
    needless=_without_drafts(BUFFERS),
)
QWEN3_5 = Family(
    read=_read_new,
    defaults=_NEW_DEFAULTS,
    names=_NAMES,
    part=_new_part,
    norms_add_one=True,
    text_types=("qwen3_5_text",),
    needless=_without_drafts(OTHER_MODALITIES),
)
QWEN3_5_MOE_TEXT = Family(
    read=_read_next,
    defaults=_NEW_MOE_DEFAULTS,
    names={**_NAMES, **EXPERT_NAMES, **_STACKED},
    other_names={name: EXPERT_NAMES[name] for name in _STACKED},
    part=_new_part,
    norms_add_one=True,
    needless=_without_drafts(BUFFERS),
    stacks_experts=True,
    halves_gate_up=True,
    turns_experts=False,
)
QWEN3_5_MOE = replace(QWEN3_5_MOE_TEXT, text_types=("qwen3_5_moe_text",), needless=_without_drafts(OTHER_MODALITIES))
