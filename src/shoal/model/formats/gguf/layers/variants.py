"""Tensors of Gemma 3n and 4 in GGUF files: inputs of layers, norms beside experts, several residual streams.

Source: llama.cpp, src/models/gemma3n.cpp and gemma4.cpp, and conversion/gemma.py.
"""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.tensor_part import TensorPart

VARIANT_NAMES = {
    "layer_scale": "layer_output_scale.weight",
    "input_gate": "inp_gate.weight",
    "input_projection": "proj.weight",
    "post_input_norm": "post_norm.weight",
    "stream_router": "altup_router.weight",
    "stream_router_norm": "altup_router_norm.weight",
    "stream_prediction": "altup_predict_coef.weight",
    "stream_correction": "altup_correct_coef.weight",
    "stream_scale": "altup_correct_scale.weight",
    "residual_down": "laurel_l.weight",
    "residual_up": "laurel_r.weight",
    "residual_norm": "laurel_post_norm.weight",
    "router_norm": "ffn_gate_inp.scale",
    "expert_scales": "ffn_down_exps.scale",
    "experts_norm": "pre_ffw_norm_2.weight",
    "post_shared_norm": "post_ffw_norm_1.weight",
    "post_experts_norm": "post_ffw_norm_2.weight",
}
VARIANT_TOP_NAMES = {
    "layer_embedding": "per_layer_token_embd.weight",
    "inputs_projection": "per_layer_model_proj.weight",
    "inputs_norm": "per_layer_proj_norm.weight",
}
MLP_BESIDE_EXPERTS = {f"shared_{part}": f"ffn_{part}.weight" for part in ("gate", "up", "down")}
"""The MLP beside experts, which has the names of a plain MLP."""
FLAT_NAMES = tuple(VARIANT_NAMES[name] for name in ("stream_router", "stream_prediction", "stream_correction"))
"""Vectors that files have as matrices."""
STREAM_TENSORS = {"spread": "altup_proj.weight", "join": "altup_unembd_proj.weight"}


def stream_part(config: DecoderConfig, name: str) -> TensorPart:
    """The part that holds a matrix of one stream, such as `streams.1.spread`; the tensor has all streams but the
    first."""
    assert config.altup is not None
    _, stream, leaf = name.split(".")
    size, index = config.hidden_size, int(stream) - 1
    return TensorPart(
        tensor=STREAM_TENSORS[leaf],
        start=index * size,
        stop=(index + 1) * size,
        stack=config.altup.num_streams - 1,
    )
