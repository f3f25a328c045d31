"""Tiny random models on disk for tests: one Hugging Face directory per family, and a GGUF file.

They share one byte-level BPE tokenizer with three special tokens and a chat template, so every text can be encoded.
PyTorch and transformers are imported only by the functions that need them; a test that calls one is skipped where they
are not installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.model.dense_families import DENSE_FAMILIES
from tests.model.recurrent_families import RECURRENT_FAMILIES

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3")
MORE_FAMILIES = ("ministral", "seed_oss", "smollm3", "granite", "gemma", "gemma2", "olmo2", "olmo3", "exaone4")
"""of which each differs from one of FAMILIES in a setting or two"""
EXPERT_FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "glm4_moe", "olmoe")
VOCAB_SIZE = 320
INPUT_FAMILIES = ("gemma3n_text", "gemma4_text")
"""whose layers have inputs of their own"""
LATENT_FAMILIES = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
GEMMA_SETTINGS: dict[str, dict[str, Any]] = {
    "gemma3n_text": {
        "vocab_size_per_layer_input": 300,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.95, 0.0, 0.5, 0.0, 0.3, 0.0],
    },
    "gemma4_text": {
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "use_double_wide_mlp": True,
        "final_logit_softcapping": 5.0,
    },
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = (
    "A shoal is many fish that swim as one. When the water is cold they keep close together, and when it is warm "
    "they spread out over the sand. The fishermen say that a shoal never sleeps: one part rests while the other part "
    "keeps watch. In the morning the boats go out, and in the evening the boats come home with the tide."
)


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer with VOCAB_SIZE tokens, the special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def write_tiny_tokenizer(directory: Path) -> None:
    """The tokenizer files of a Hugging Face directory."""
    tiny_tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _common_settings() -> dict[str, Any]:
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.15,
    }


def _family_settings(family: str) -> dict[str, Any]:
    match family:
        case "llama" | "qwen2" | "qwen3" | "gemma":
            return {"head_dim": 16}
        case "seed_oss":
            return {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}
        case "smollm3":
            return {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 24}
        case "olmo2":
            return {}
        case "olmo3" | "exaone4":
            kinds = ["sliding_attention", "full_attention"] * 2
            return {"head_dim": 16, "sliding_window": 24, "layer_types": kinds}
        case "olmoe":
            return {"intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 3}
        case "granite":
            return {
                "embedding_multiplier": 3.0,
                "attention_multiplier": 0.2,
                "residual_multiplier": 0.7,
                "logits_scaling": 1.5,
            }
        case "ministral":
            kinds = ["full_attention", "sliding_attention"] * 2
            return {"head_dim": 16, "sliding_window": 24, "layer_types": kinds}
        case "gemma2":
            return {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}
        case "mistral":
            return {"head_dim": 16, "sliding_window": 24}
        case "gemma3_text":
            return {
                "head_dim": 16,
                "sliding_window": 24,
                "query_pre_attn_scalar": 20,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            }
        case "gemma3n_text" | "gemma4_text":
            return {
                "head_dim": 16,
                "sliding_window": 24,
                "layer_types": ["sliding_attention", "full_attention"] * 3,
                "num_hidden_layers": 6,
                "num_kv_shared_layers": 2,
                "hidden_size_per_layer_input": 8,
                **GEMMA_SETTINGS[family],
            }
        case "phi3":
            return {"sliding_window": None, "partial_rotary_factor": 0.75}
        case "mixtral":
            return {"head_dim": 16, "intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 3}
        case "qwen2_moe" | "qwen3_moe":
            shared = {"shared_expert_intermediate_size": 128} if family == "qwen2_moe" else {"head_dim": 16}
            return {
                "moe_intermediate_size": 96,
                "num_experts": 8,
                "num_experts_per_tok": 3,
                "norm_topk_prob": family == "qwen3_moe",
                "mlp_only_layers": [1],
                **shared,
            }
        case "glm4_moe":
            return {
                "head_dim": 16,
                "moe_intermediate_size": 96,
                "num_experts_per_tok": 3,
                "n_routed_experts": 8,
                "n_shared_experts": 2,
                "n_group": 4,
                "topk_group": 2,
                "routed_scaling_factor": 1.5,
                "first_k_dense_replace": 1,
                "use_qk_norm": True,
                "attention_bias": True,
            }
        case "deepseek_v2" | "deepseek_v3" | "glm4_moe_lite":
            return {
                "num_key_value_heads": 4,
                "q_lora_rank": 40,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 24,
                "qk_rope_head_dim": 8,
                "v_head_dim": 20,
                "moe_intermediate_size": 96,
                "num_experts_per_tok": 3,
                "n_routed_experts": 8,
                "n_shared_experts": 2,
                "n_group": 4,
                "topk_group": 2,
                "routed_scaling_factor": 1.5,
                "first_k_dense_replace": 1,
            }
        case "gpt_oss":
            rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "truncate": False}
            return {
                "head_dim": 16,
                "intermediate_size": 96,
                "num_local_experts": 8,
                "num_experts_per_tok": 3,
                "sliding_window": 24,
                "rope_parameters": {
                    **rope,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "original_max_position_embeddings": 64,
                },
            }
        case _:
            return {**DENSE_FAMILIES, **RECURRENT_FAMILIES}[family]


def tiny_hf_config(family: str, **overrides: Any) -> Any:
    """The transformers configuration of `make_tiny_model`, with some settings replaced."""
    AutoConfig = pytest.importorskip("transformers").AutoConfig
    settings = {**_common_settings(), **_family_settings(family), **overrides}
    return AutoConfig.for_model(family, **settings)


def make_tiny_model(family: str, directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random fp32 model of one of the families above, with its tokenizer, and return `directory`.

    Hidden 64, 4 layers, 4 query and 2 KV heads of 16, MLP 128, vocabulary 320. Norm weights and biases are random too,
    so that leaving one out changes the logits. `overrides` replaces settings of its configuration.
    """
    torch = pytest.importorskip("torch")
    AutoModelForCausalLM = pytest.importorskip("transformers").AutoModelForCausalLM

    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_hf_config(family, **overrides), dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1 or name.endswith("_bias"):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            for name, buffer in model.named_buffers():
                if name.endswith(("e_score_correction_bias", "layer_scalar")):
                    buffer.add_(torch.randn_like(buffer) * 0.1)
    model.save_pretrained(directory)
    write_tiny_tokenizer(directory)
    return directory


def tiny_llama_tensors(*, seed: int = 0, num_layers: int = 4) -> dict[str, np.ndarray]:
    """Random weights under their GGUF names, rows of q and k in llama.cpp's interleaved rotary order."""
    rng = np.random.default_rng(seed)
    shapes = {
        "attn_q": (64, 64),
        "attn_k": (32, 64),
        "attn_v": (32, 64),
        "attn_output": (64, 64),
        "ffn_gate": (128, 64),
        "ffn_up": (128, 64),
        "ffn_down": (64, 128),
    }

    def norm() -> np.ndarray:
        return (1 + 0.1 * rng.standard_normal(64)).astype(np.float32)

    tensors = {"token_embd.weight": 0.5 * rng.standard_normal((VOCAB_SIZE, 64), dtype=np.float32)}
    for layer in range(num_layers):
        tensors[f"blk.{layer}.attn_norm.weight"] = norm()
        tensors[f"blk.{layer}.ffn_norm.weight"] = norm()
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = 0.15 * rng.standard_normal(shape, dtype=np.float32)
    tensors["output_norm.weight"] = norm()
    return tensors


def write_gguf(
    path: Path,
    architecture: str,
    tensors: Mapping[str, np.ndarray],
    *,
    quant: str | Mapping[str, str] = "F32",
    embedding_quant: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write matrices at `quant` (a GGML type that gguf can write) and vectors in fp32, with the tiny tokenizer.

    Matrices of bytes are taken for quantized already. A mapping says `quant` of each by name.
    """
    writer = gguf.GGUFWriter(path, architecture)
    defaults = {**_default_metadata(architecture, tensors), **_tokenizer_metadata()}
    for key, value in {**defaults, **(metadata or {})}.items():
        _add_metadata(writer, key, value)
    for name, values in tensors.items():
        wanted = quant if isinstance(quant, str) else quant.get(name, "F32")
        if name == "token_embd.weight" and embedding_quant is not None:
            wanted = embedding_quant
        kind = gguf.GGMLQuantizationType[wanted if values.ndim == 2 else "F32"]
        if values.dtype == np.uint8:
            writer.add_tensor(name, values, raw_dtype=kind)
        elif values.dtype != np.float32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_tiny_gguf(directory: Path, *, quant: str = "Q4_1", seed: int = 0) -> Path:
    """Write a random llama-architecture GGUF file (hidden 64, 4 layers, Q8_0 embedding) and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"tiny-{quant}.gguf"
    return write_gguf(path, "llama", tiny_llama_tensors(seed=seed), quant=quant, embedding_quant="Q8_0")


def _default_metadata(architecture: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    num_layers = sum(name.endswith(".attn_norm.weight") for name in tensors)
    return {
        f"{architecture}.{key}": value
        for key, value in {
            "block_count": num_layers,
            "context_length": 512,
            "embedding_length": 64,
            "feed_forward_length": 128,
            "attention.head_count": 4,
            "attention.head_count_kv": 2,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 10000.0,
            "rope.dimension_count": 16,
        }.items()
    }


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))


def _tokenizer_metadata() -> dict[str, Any]:
    model = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL_TOKENS else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
