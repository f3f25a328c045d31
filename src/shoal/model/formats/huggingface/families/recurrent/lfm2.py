"""LFM2: short gated convolutions, and attention in some layers. Source: transformers, models/lfm2."""

from __future__ import annotations

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, TOP_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.recurrence import TAPS, ShortConvConfig

_DEFAULTS = {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
}
_CONV, _ATTENTION = "conv", "full_attention"
_NAMES = {
    **LAYER_NAMES,
    "attn_norm": "operator_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "o": "self_attn.out_proj.weight",
    "q_norm": "self_attn.q_layernorm.weight",
    "k_norm": "self_attn.k_layernorm.weight",
    "gate": "feed_forward.w1.weight",
    "up": "feed_forward.w3.weight",
    "down": "feed_forward.w2.weight",
    "conv_taps": "conv.conv.weight",
    "conv_taps_bias": "conv.conv.bias",
    "conv_out": "conv.out_proj.weight",
    "conv_out_bias": "conv.out_proj.bias",
}
_TOP = {**TOP_NAMES, "final_norm": "embedding_norm.weight"}
_INPUTS = ("conv_b", "conv_c", "conv_x")


def _read(settings: Settings) -> DecoderConfig:
    num_taps = settings.positive("conv_L_cache")
    if num_taps not in TAPS:
        raise ModelLoadError(
            f"{settings.path}: 'conv_L_cache' is {num_taps}; convolutions over 2 to 4 tokens are known"
        )
    recurrence = ShortConvConfig(
        layers=_conv_layers(settings),
        channels=settings.positive("hidden_size"),
        num_taps=num_taps,
        biases=settings.flag("conv_bias"),
    )
    tied = settings.get("tie_embedding")
    return settings.decoder(
        intermediate_size=_mlp_columns(settings),
        norm_epsilon=settings.number("norm_eps"),
        qk_norm=True,
        recurrence=recurrence if recurrence.layers else None,
        tied_embeddings=settings.flag("tie_word_embeddings") if tied is None else bool(tied),
    )


def _conv_layers(settings: Settings) -> tuple[int, ...]:
    layers = range(settings.num_layers)
    attention = layers if settings.get("full_attn_idxs") is None else settings.layers("full_attn_idxs")
    default = [_ATTENTION if layer in attention else _CONV for layer in layers]
    return settings.layers_of_type(_CONV, others=(_ATTENTION,), default=default)


def _part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """Both gates and what is convolved lie under each other."""
    name = leaf.removesuffix("_bias")
    if name not in _INPUTS:
        return None
    start = _INPUTS.index(name) * config.hidden_size
    kind = "weight" if leaf == name else "bias"
    return TensorPart(tensor=f"conv.in_proj.{kind}", start=start, stop=start + config.hidden_size)


def _mlp_columns(settings: Settings) -> int:
    """The file may say those of an MLP without a gate, from which the ones of as large an MLP with a gate follow."""
    columns = settings.positive("intermediate_size" if settings.get("block_ff_dim") is None else "block_ff_dim")
    if not settings.flag("block_auto_adjust_ff_dim"):
        return columns
    columns, multiple = 2 * columns // 3, settings.positive("block_multiple_of")
    if settings.get("block_ffn_dim_multiplier") is not None:
        columns = int(settings.number("block_ffn_dim_multiplier") * columns)
        columns = -(-columns // multiple) * multiple
    return columns


LFM2 = Family(read=_read, defaults=_DEFAULTS, names=_NAMES, top=_TOP, part=_part)
