"""The description of a family of models, and the tensor names that most families share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.tensor_part import TensorPart

_MATRICES = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "qkv": "self_attn.qkv_proj.weight",
    "gate_up": "mlp.gate_up_proj.weight",
}
LAYER_NAMES: Mapping[str, str] = {
    **_MATRICES,
    **{f"{name}_bias": tensor.replace(".weight", ".bias") for name, tensor in _MATRICES.items()},
    "attn_norm": "input_layernorm.weight",
    "attn_norm_bias": "input_layernorm.bias",
    "mlp_norm_bias": "post_attention_layernorm.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
}
"""Names of a layer's tensors by the names of `WeightSource`. A star stands for the number of an expert."""
EXPERT_NAMES: Mapping[str, str] = {
    "router": "mlp.gate.weight",
    "selection_bias": "mlp.gate.e_score_correction_bias",
    "experts.*.gate": "mlp.experts.*.gate_proj.weight",
    "experts.*.up": "mlp.experts.*.up_proj.weight",
    "experts.*.down": "mlp.experts.*.down_proj.weight",
    "shared_gate": "mlp.shared_expert.gate_proj.weight",
    "shared_up": "mlp.shared_expert.up_proj.weight",
    "shared_down": "mlp.shared_expert.down_proj.weight",
    "shared_router": "mlp.shared_expert_gate.weight",
}
SHARED_EXPERTS_NAMES: Mapping[str, str] = {
    name: tensor.replace("shared_expert.", "shared_experts.") for name, tensor in EXPERT_NAMES.items()
}
"""The same names in families that call the shared MLP shared experts."""
TOP_NAMES: Mapping[str, str] = {
    "embedding": "embed_tokens.weight",
    "final_norm": "norm.weight",
    "final_norm_bias": "norm.bias",
    "layers": "layers.",
}
_BUFFERS = r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids|masked_bias)"
BUFFERS = re.compile(_BUFFERS)
"""Buffers in old files that can be computed from the settings."""
_OTHER_PARTS = "vision_tower|vision_model|visual|multi_modal_projector|audio_tower|embed_vision|embed_audio"
OTHER_MODALITIES = re.compile(rf"(model\.)?({_OTHER_PARTS})\..*|{_BUFFERS}")
"""The same buffers, and parts of a multimodal model that the language model does not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models whose settings are read in the same way and whose tensors have the same names."""

    read: Callable[[Settings], DecoderConfig]
    defaults: Mapping[str, Any]
    """Values of keys that a file may leave out: the defaults of the configuration class of its model type. A key whose
    value is null does not get its default: a Mistral without the key has a window of 4096, one with null has none."""
    names: Mapping[str, str] = field(default_factory=lambda: LAYER_NAMES)
    """Names of a layer's tensors."""
    other_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Alternative names of tensors in some models of the family."""
    top: Mapping[str, str] = field(default_factory=lambda: TOP_NAMES)
    """Names of tensors outside layers, and what stands before a layer's number."""
    head: str = "lm_head.weight"
    """End of the head's name, which may be the whole name."""
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Keys of the family's settings, and the common keys that they stand for."""
    is_interleaved: bool = False
    """Whether neighboring dimensions of queries and keys rotate as pairs, instead of half-split ones."""
    groups_qkv: bool = False
    """Whether a fused tensor of queries, keys and values holds them in turn for each key head."""
    is_transposed: bool = False
    """Whether all matrices of layers have inputs before outputs."""
    part: Callable[[DecoderConfig, str], TensorPart | None] = lambda config, leaf: None
    """Returns the place of a layer's name that has no tensor of its own, with a tensor name without the layer's prefix;
    None: the general rules apply."""
    norms_add_one: bool = False
    """Whether the file's norm weights lack the 1 that layers add to them."""
    text_types: tuple[str, ...] = ()
    """If a model is the text part of another one: the values of `model_type` that its `text_config` may have. Settings
    without a `text_config` are the language model's own."""
    needless: re.Pattern[str] = BUFFERS
    """Tensors that the language model does not use."""
    quantizations: tuple[str, ...] = ()
    """Values of `quant_method` whose tensors can be read."""
    has_draft_layers: bool = False
    """Whether further layers may follow the model's own. They predict more tokens, and are left out."""
    stacks_experts: bool = False
    """Whether one tensor holds all experts of a layer, with rows of gate and up in turn (gpt-oss)."""
    turns_experts: bool = True
    """Whether such a tensor has inputs before outputs, unless it belongs to a linear layer (not in Qwen 3.5, Gemma
    4)."""
    halves_gate_up: bool = False
    """Whether all gate rows of an expert stand before its up rows in such a tensor (Llama 4, Granite)."""
