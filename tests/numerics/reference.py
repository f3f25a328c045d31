"""The same models in Hugging Face transformers, plain fp32 with eager attention: the independent reference.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.quantization import dequantize
from shoal.model.weights import BLOCK, Precision, WeightSource

F32 = npt.NDArray[np.float32]
TOP_NAMES = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
LAYER_MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
LAYER_VECTORS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def load_reference(directory: Path) -> Any:
    """The model of a Hugging Face directory."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


def reference_logits(model: Any, tokens: Sequence[int]) -> F32:
    """Logits [T, V] after every token.

    transformers' Gemma 3 keeps `attn_logit_softcapping` but does not hand it on to its attention; here it is handed on.
    """
    import torch

    cap = getattr(model.config, "attn_logit_softcapping", None)
    options = {"softcap": cap} if cap is not None and model.config.model_type.startswith("gemma3") else {}
    with torch.no_grad():
        return model(torch.tensor([list(tokens)]), use_cache=False, **options).logits[0].numpy()


def reference_of_weights(source: WeightSource, precision: Precision) -> Any:
    """A llama-family source's weights, quantized as the stage would and widened to fp32 again, in a reference model."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(_llama_config(source.config)).eval()
    model.set_attn_implementation("eager")
    state: dict[str, Any] = {}
    for name in ("embedding", "head"):
        state[TOP_NAMES[name]] = dequantize(source.matrix(name, precision))
    state["model.norm.weight"] = source.vector("final_norm")
    for layer in range(source.config.num_layers):
        for part, target in (LAYER_MATRICES | LAYER_VECTORS).items():
            name = f"layers.{layer}.{part}"
            is_matrix = part in LAYER_MATRICES
            values = dequantize(source.matrix(name, precision)) if is_matrix else source.vector(name)
            state[f"model.layers.{layer}.{target}.weight"] = values
    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in state.items()})
    return model


def round_activations(model: Any, *, layers: bool) -> None:
    """Let the inputs of the head, and with `layers` of every matrix, pass through blocks of 8 bits.

    This is the rounding that `MatMulNBits` does with accuracy level 4: 32 values share a scale, largest magnitude 127.
    """
    import torch

    def round_blocks(_: Any, inputs: tuple[Any, ...]) -> Any:
        (x,) = inputs
        blocks = x.unflatten(-1, (-1, BLOCK))
        scales = blocks.abs().amax(-1, keepdim=True) / 127
        return (torch.round(blocks / scales.clamp(min=1e-30)) * scales).flatten(-2)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and (layers or name == "lm_head"):
            module.register_forward_pre_hook(round_blocks)


def _llama_config(config: DecoderConfig) -> Any:
    from transformers import LlamaConfig

    assert config.family == "llama"
    assert not config.rope.scaling
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_context,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        tie_word_embeddings=False,
    )
