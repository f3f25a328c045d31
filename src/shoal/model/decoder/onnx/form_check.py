"""Which models have an ONNX form. A module of its own, so that planning does not import ONNX Runtime."""

from __future__ import annotations

from shoal.errors import ConfigError
from shoal.model.decoder_config import DecoderConfig


def check_onnx_form(decoder: DecoderConfig, way_out: str) -> None:
    """Raises ConfigError if a model has layers without an ONNX form; `way_out`: what the user can do."""
    parts = {
        "latent attention": decoder.latent is not None,
        "recurrent layers": decoder.recurrence is not None,
        "an encoder": decoder.encoder is not None,
        "gated attention": decoder.gates_attention,
        "several residual streams": decoder.altup is not None,
        "inputs of layers": decoder.layer_inputs is not None,
        "layers of unlike heads, keys or norms": decoder.unit_v_norm or decoder.full_heads is not None,
    }
    if what := next((what for what, is_there in parts.items() if is_there), ""):
        raise ConfigError(f"{decoder.family} has {what}, without an ONNX form: {way_out}")
