"""What a GGUF file does not say about its architecture.

Source: llama.cpp, src/models (arithmetic), src/llama-model.cpp (llama_model_rope_type) and conversion/ (what each
converter writes). Where llama.cpp approximates an activation that the model's authors compute exactly, the exact one is
used; so are Phi-3.5-MoE's norms and router, for which llama.cpp uses those of other models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shoal.model.decoder_config import Activation
from shoal.model.formats.gguf.layers.variants import MLP_BESIDE_EXPERTS, VARIANT_NAMES
from shoal.model.layer_config.attention import QueryScaling

_LATE_NORM = {"mlp_norm": "post_attention_norm.weight"}
"""The norm before the MLP is stored under the name of a norm after attention."""
_LATENT_NAMES = {
    "q_down": "attn_q_a.weight",
    "q_down_norm": "attn_q_a_norm.weight",
    "latent_down": "attn_kv_a_mqa.weight",
    "latent_norm": "attn_kv_a_norm.weight",
    "k_up": "attn_k_b.weight",
    "v_up": "attn_v_b.weight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What neither metadata nor tensors say about files with one value of `general.architecture`."""

    is_interleaved: bool = False
    """Whether rows of q and k are in interleaved rotary order."""
    centers_norms: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    gated_mlp: bool = True
    activation: Activation = "silu"
    is_parallel: bool = False
    """Whether layers are parallel, if the file does not say it."""
    norms_rotated: bool = False
    """Whether norms of queries and keys come after the rotary embedding."""
    rotates: Literal["all", "none", "sliding", "three of four", "unless told"] = "all"
    """Layers that have a rotary embedding. `sliding`: the layers with a window, or all layers of a model without
    windows; `unless told`: all, unless the file says that the embedding was not trained."""
    slides: Literal["all", "some", "none"] = "all"
    """Layers that have the window which the file names."""
    pattern: int = 0
    """If some layers slide and the file does not say which: every layer whose number is a multiple of this has full
    attention."""
    window: int = 0
    """Window in tokens, if the file names none."""
    local_rope: Literal["", "own base", "unscaled"] = ""
    """What is different in the rotary embedding of layers that slide."""
    axes: Literal["", "in runs", "in turn"] = ""
    """How rotary frequencies are assigned to the three positions of a vision model: see `rope_axes.py`."""
    scales_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the hidden size."""
    logits_scale: Literal["", "factor", "divisor"] = ""
    """Meaning of the file's `logit_scale`."""
    attention_sinks: bool = False
    normalizes_experts: bool = True
    """Whether the weights of a token's experts are divided by their sum, if the file does not say it."""
    has_sigmoid: bool = False
    """Whether a router's scores are sigmoids, if the file does not say it."""
    mixer_limit: float = 0.0
    """See `ExpertsConfig`."""
    scales_expert_input: bool = False
    has_temperature: bool = False
    """Whether queries grow with their position as the metadata say."""
    temperature: QueryScaling | None = None
    """How queries grow with their position, if no file says it."""
    in_chunks: bool = False
    is_recurrent: bool = False
    """Whether there are layers without attention."""
    has_single_halves: bool = False
    """Whether each layer is only attention, only a recurrence, only an MLP or only experts."""
    gates_attention: bool = False
    has_variants: bool = False
    """Whether the layers have the features that `layers/variants.py` reads."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of tensors that other architectures have under another name."""


_LFM2 = Architecture(is_recurrent=True, names={"final_norm": "token_embd_norm.weight"})
_NEMOTRON_H = Architecture(
    is_recurrent=True,
    has_single_halves=True,
    gated_mlp=False,
    activation="relu2",
    rotates="none",
    has_sigmoid=True,
    names={"mlp_norm": "attn_norm.weight"},
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(is_interleaved=True),
    "llama4": Architecture(
        is_interleaved=True,
        rotates="three of four",
        slides="some",
        pattern=4,
        window=8192,
        in_chunks=True,
        temperature=QueryScaling(period=8192.0, strength=0.1, offset=1, only_unrotated=True),
        normalizes_experts=False,
        has_sigmoid=True,
        scales_expert_input=True,
    ),
    "mistral3": Architecture(is_interleaved=True, has_temperature=True),
    "granite": Architecture(is_interleaved=True, logits_scale="divisor"),
    "granitemoe": Architecture(is_interleaved=True, logits_scale="divisor"),
    "arcee": Architecture(is_interleaved=True, gated_mlp=False, activation="relu2"),
    "smollm3": Architecture(is_interleaved=True, rotates="three of four"),
    "internlm2": Architecture(is_interleaved=True),
    "ernie4_5": Architecture(is_interleaved=True),
    "ernie4_5-moe": Architecture(is_interleaved=True),
    "qwen2": Architecture(slides="none"),
    "qwen2moe": Architecture(slides="none", normalizes_experts=False),
    "qwen2vl": Architecture(slides="none", axes="in runs"),
    "qwen3": Architecture(slides="none"),
    "qwen3moe": Architecture(slides="none"),
    "qwen3vl": Architecture(slides="none", axes="in turn"),
    "qwen3vlmoe": Architecture(slides="none", axes="in turn"),
    "gemma": Architecture(activation="gelu_tanh", scales_embedding=True),
    "gemma2": Architecture(
        activation="gelu_tanh", scales_embedding=True, slides="some", pattern=2, window=4096, post_norms=True
    ),
    "gemma3": Architecture(
        activation="gelu_tanh", scales_embedding=True, slides="some", pattern=6, local_rope="own base", post_norms=True
    ),
    "gemma3n": Architecture(
        activation="gelu_tanh",
        scales_embedding=True,
        slides="some",
        pattern=5,
        local_rope="own base",
        post_norms=True,
        has_variants=True,
        names=VARIANT_NAMES,
    ),
    "gemma4": Architecture(
        activation="gelu_tanh",
        scales_embedding=True,
        slides="some",
        pattern=6,
        local_rope="own base",
        post_norms=True,
        has_variants=True,
        names={**VARIANT_NAMES, **MLP_BESIDE_EXPERTS},
    ),
    "phi3": Architecture(),
    "gpt-oss": Architecture(
        activation="clamped_swiglu", attention_sinks=True, slides="some", pattern=2, names=_LATE_NORM
    ),
    "deepseek2": Architecture(normalizes_experts=False, names=_LATENT_NAMES),
    "glm4moe": Architecture(has_sigmoid=True, names=_LATE_NORM),
    "seed_oss": Architecture(names=_LATE_NORM),
    "chatglm": Architecture(is_interleaved=True),
    "glm4": Architecture(is_interleaved=True, post_norms=True),
    "olmo2": Architecture(slides="some", pattern=4, local_rope="unscaled", pre_norms=False, post_norms=True),
    "olmoe": Architecture(normalizes_experts=False),
    "exaone4": Architecture(slides="some", pattern=4, rotates="sliding", pre_norms=False, post_norms=True),
    "hunyuan-dense": Architecture(norms_rotated=True),
    "hunyuan-moe": Architecture(norms_rotated=True),
    "minimax-m2": Architecture(has_sigmoid=True),
    "command-r": Architecture(is_interleaved=True, centers_norms=True, is_parallel=True, logits_scale="factor"),
    "cohere2": Architecture(
        is_interleaved=True,
        centers_norms=True,
        is_parallel=True,
        logits_scale="factor",
        slides="some",
        pattern=4,
        rotates="sliding",
    ),
    "stablelm": Architecture(centers_norms=True),
    "starcoder2": Architecture(centers_norms=True, gated_mlp=False, activation="gelu_tanh"),
    "nemotron": Architecture(centers_norms=True, gated_mlp=False, activation="relu2"),
    "phi2": Architecture(centers_norms=True, gated_mlp=False, activation="gelu_tanh", is_parallel=True),
    "phimoe": Architecture(centers_norms=True, mixer_limit=0.02),
    "gptneox": Architecture(centers_norms=True, gated_mlp=False, activation="gelu", is_parallel=True),
    "falcon": Architecture(centers_norms=True, gated_mlp=False, activation="gelu", is_parallel=True),
    "lfm2": _LFM2,
    "lfm2moe": _LFM2,
    "granitehybrid": Architecture(
        is_interleaved=True, logits_scale="divisor", is_recurrent=True, rotates="unless told"
    ),
    "nemotron_h": _NEMOTRON_H,
    "nemotron_h_moe": _NEMOTRON_H,
    "qwen3next": Architecture(is_recurrent=True, gates_attention=True, names=_LATE_NORM),
    "qwen35": Architecture(is_recurrent=True, gates_attention=True, names=_LATE_NORM),
    "qwen35moe": Architecture(is_recurrent=True, gates_attention=True, names=_LATE_NORM),
    "gpt2": Architecture(centers_norms=True, gated_mlp=False, activation="gelu_tanh", rotates="none"),
}
"""Architectures by name. Mistral and Mixtral files have the architecture llama; DeepSeek V3, Kimi K2 and GLM 4.7 Flash
files have deepseek2."""
FALCON_40B_NAMES = {
    "attn_norm": "attn_norm_2.weight",
    "attn_norm_bias": "attn_norm_2.bias",
    "mlp_norm": "attn_norm.weight",
    "mlp_norm_bias": "attn_norm.bias",
}
"""Falcon with two norms a layer: the second one is attention's."""
