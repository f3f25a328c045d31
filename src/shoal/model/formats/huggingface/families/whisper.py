"""Whisper: an audio encoder, and a decoder whose layers have attention over its output.

Source: transformers, models/whisper; CTranslate2's converter, python/ctranslate2/specs/whisper_spec.py, for the tensor
names in CTranslate2's files.
"""

from __future__ import annotations

from typing import Any

from shoal.model.decoder_config import DecoderConfig, EncoderConfig
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.tensor_part import TensorPart

_DEFAULTS = {
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "hidden_size": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "max_source_positions": 1500,
    "max_position_embeddings": 448,
    "hidden_act": "gelu",
    "rms_norm_eps": 1e-5,
    "scale_embedding": False,
    "tie_word_embeddings": True,
}
_ALIASES = {
    "d_model": "hidden_size",
    "decoder_layers": "num_hidden_layers",
    "decoder_attention_heads": "num_attention_heads",
    "decoder_ffn_dim": "intermediate_size",
    "max_target_positions": "max_position_embeddings",
    "activation_function": "hidden_act",
}
_TOP = {
    "embedding": "decoder.embed_tokens.weight",
    "positions": "decoder.embed_positions.weight",
    "final_norm": "decoder.layer_norm.weight",
    "final_norm_bias": "decoder.layer_norm.bias",
    "layers": "decoder.layers.",
    "encoder.conv1": "encoder.conv1.weight",
    "encoder.conv1_bias": "encoder.conv1.bias",
    "encoder.conv2": "encoder.conv2.weight",
    "encoder.conv2_bias": "encoder.conv2.bias",
    "encoder.positions": "encoder.embed_positions.weight",
    "encoder.final_norm": "encoder.layer_norm.weight",
    "encoder.final_norm_bias": "encoder.layer_norm.bias",
    "encoder.layers": "encoder.layers.",
}
_MATRICES = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.out_proj.weight",
    "attn_norm": "self_attn_layer_norm.weight",
    "cross_q": "encoder_attn.q_proj.weight",
    "cross_k": "encoder_attn.k_proj.weight",
    "cross_v": "encoder_attn.v_proj.weight",
    "cross_o": "encoder_attn.out_proj.weight",
    "cross_norm": "encoder_attn_layer_norm.weight",
    "up": "fc1.weight",
    "down": "fc2.weight",
    "mlp_norm": "final_layer_norm.weight",
}
_NAMES = _MATRICES | {f"{name}_bias": tensor.replace(".weight", ".bias") for name, tensor in _MATRICES.items()}

_CT2_TOP = {
    "embedding": "decoder.embeddings.weight",
    "positions": "decoder.position_encodings.encodings",
    "final_norm": "decoder.layer_norm.gamma",
    "final_norm_bias": "decoder.layer_norm.beta",
    "layers": "decoder.layers.",
    "encoder.conv1": "encoder.conv1.weight",
    "encoder.conv1_bias": "encoder.conv1.bias",
    "encoder.conv2": "encoder.conv2.weight",
    "encoder.conv2_bias": "encoder.conv2.bias",
    "encoder.positions": "encoder.position_encodings.encodings",
    "encoder.final_norm": "encoder.layer_norm.gamma",
    "encoder.final_norm_bias": "encoder.layer_norm.beta",
    "encoder.layers": "encoder.layers.",
}
_CT2_MATRICES = {
    "qkv": "self_attention.linear_0.weight",
    "o": "self_attention.linear_1.weight",
    "cross_q": "attention.linear_0.weight",
    "cross_o": "attention.linear_2.weight",
    "up": "ffn.linear_0.weight",
    "down": "ffn.linear_1.weight",
}
_CT2_NORMS = {"attn_norm": "self_attention", "cross_norm": "attention", "mlp_norm": "ffn"}
_CT2_NAMES = {
    **_CT2_MATRICES,
    **{f"{name}_bias": tensor.replace(".weight", ".bias") for name, tensor in _CT2_MATRICES.items()},
    **{name: f"{half}.layer_norm.gamma" for name, half in _CT2_NORMS.items()},
    **{f"{name}_bias": f"{half}.layer_norm.beta" for name, half in _CT2_NORMS.items()},
}


def _read(settings: Settings, *, keys_biased: bool) -> DecoderConfig:
    settings.refuse("scale_embedding", unless=False)
    hidden_size = settings.positive("hidden_size")
    common: dict[str, Any] = {
        "centers_norms": True,
        "norm_bias": True,
        "gated_mlp": False,
        "qkv_bias": True,
        "keys_biased": keys_biased,
        "o_bias": True,
        "mlp_bias": True,
        "learned_positions": True,
    }
    num_layers, num_heads = settings.positive("encoder_layers"), settings.positive("encoder_attention_heads")
    head_dim = hidden_size // num_heads
    layers = settings.decoder(
        **common,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        intermediate_size=settings.positive("encoder_ffn_dim"),
        vocab_size=0,
        max_context=settings.positive("max_source_positions"),
        no_rope_layers=tuple(range(num_layers)),
        sees_all=True,
    )
    return settings.decoder(
        **common,
        num_kv_heads=settings.positive("num_attention_heads"),
        no_rope_layers=tuple(range(settings.num_layers)),
        encoder=EncoderConfig(num_mels=settings.positive("num_mel_bins"), layers=layers),
    )


def _cross_part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """One tensor of a CTranslate2 file has the keys and then the values over the encoder's output."""
    width = config.num_kv_heads * config.head_dim
    name, start = leaf.removesuffix("_bias"), {"cross_k": 0, "cross_v": width}
    if name not in start:
        return None
    tensor = "attention.linear_1.bias" if leaf.endswith("_bias") else "attention.linear_1.weight"
    return TensorPart(tensor=tensor, start=start[name], stop=start[name] + width)


WHISPER = Family(
    read=lambda settings: _read(settings, keys_biased=False),
    defaults=_DEFAULTS,
    aliases=_ALIASES,
    top=_TOP,
    head="proj_out.weight",
    names=_NAMES,
)
CT2_WHISPER = Family(
    read=lambda settings: _read(settings, keys_biased=True),
    defaults=_DEFAULTS,
    aliases=_ALIASES,
    top=_CT2_TOP,
    head="decoder.projection.weight",
    names=_CT2_NAMES,
    part=_cross_part,
)
"""Whisper as CTranslate2 writes it, where keys have biases of zeros."""
