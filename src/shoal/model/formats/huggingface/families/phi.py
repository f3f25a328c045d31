"""Phi 3 and 4. Source: transformers, models/phi3."""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.settings import Settings

_DEFAULTS = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def _read_phi3(settings: Settings) -> DecoderConfig:
    return settings.decoder(rope=settings.rope(is_partial=True), layer_windows=settings.all_slide())


PHI3 = Family(read=_read_phi3, defaults=_DEFAULTS)
