"""A GGUF file of a tiny Hugging Face model, with the names, keys and order of rows that llama.cpp's converter writes.

Names come from the gguf package's own table, so that they are an independent check of ours.
Source of keys and order: llama.cpp, convert_hf_to_gguf.py and conversion/ (set_gguf_parameters, permute).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.model.converted_gemma import GEMMA, add_gemma, gemma_tensors, own_settings

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
    "glm4_moe": gguf.MODEL_ARCH.GLM4_MOE,
    "glm4_moe_lite": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3n_text": gguf.MODEL_ARCH.GEMMA3N,
    "gemma4_text": gguf.MODEL_ARCH.GEMMA4,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "llama4_text": gguf.MODEL_ARCH.LLAMA4,
    "phimoe": gguf.MODEL_ARCH.PHIMOE,
    "granitemoeshared": gguf.MODEL_ARCH.GRANITE_MOE,
    "arcee": gguf.MODEL_ARCH.ARCEE,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "olmo3": gguf.MODEL_ARCH.OLMO2,
    "olmoe": gguf.MODEL_ARCH.OLMOE,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "glm": gguf.MODEL_ARCH.CHATGLM,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "ernie4_5_moe": gguf.MODEL_ARCH.ERNIE4_5_MOE,
    "hunyuan_v1_dense": gguf.MODEL_ARCH.HUNYUAN_DENSE,
    "hunyuan_v1_moe": gguf.MODEL_ARCH.HUNYUAN_MOE,
    "minimax_m2": gguf.MODEL_ARCH.MINIMAXM2,
    "cohere": gguf.MODEL_ARCH.COMMAND_R,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
    "nemotron": gguf.MODEL_ARCH.NEMOTRON,
    "phi": gguf.MODEL_ARCH.PHI2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "falcon": gguf.MODEL_ARCH.FALCON,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "lfm2": gguf.MODEL_ARCH.LFM2,
    "qwen3_next": gguf.MODEL_ARCH.QWEN3NEXT,
    "qwen3_5_text": gguf.MODEL_ARCH.QWEN35,
    "lfm2_moe": gguf.MODEL_ARCH.LFM2MOE,
    "qwen3_5_moe_text": gguf.MODEL_ARCH.QWEN35MOE,
    "granitemoehybrid": gguf.MODEL_ARCH.GRANITE_HYBRID,
    "nemotron_h": gguf.MODEL_ARCH.NEMOTRON_H,
}
COMMON_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "num_kv_heads": "num_key_value_heads",
    "ffn_hidden_size": "intermediate_size",
    "moe_topk": "num_experts_per_tok",
    "top_k_experts": "num_experts_per_tok",
    "intermediate_size_mlp": "intermediate_size",
}
"""of settings that a family has under another name"""


def can_be_converted(settings: Mapping[str, Any]) -> bool:
    """GGUF has no key for other activations, a Gemma 3 scale that is not of its head, windows of Qwen's layers, or
    longrope outside of Phi-3; its dynamic kind is dropped, which is right up to the context."""
    activation = settings.get("hidden_act", settings.get("hidden_activation"))
    is_gemma = "hidden_activation" in settings
    rope = settings["rope_parameters"]
    return (
        activation == ("gelu_pytorch_tanh" if is_gemma else "silu")
        and not settings.get("use_sliding_window")
        and (not is_gemma or settings["query_pre_attn_scalar"] == settings["head_dim"])
        and (rope.get("rope_type") != "longrope" or "partial_rotary_factor" in rope)
        and "mscale" not in rope
    )


def convert(
    directory: Path,
    path: Path,
    architecture: gguf.MODEL_ARCH | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model's GGUF in fp32, without a tokenizer unless its keys are given; as one of another architecture that
    computes the same."""
    config = json.loads((directory / "config.json").read_text())
    config["expert_size"] = config.get("moe_intermediate_size") or config.get("intermediate_size")
    config |= {COMMON_KEYS[key]: value for key, value in config.items() if key in COMMON_KEYS and value is not None}
    config |= _read_kinds(config)
    architecture = architecture or ARCHITECTURES[config["model_type"]]
    if config["model_type"] == "nemotron_h" and "moe" in config["layers_block_type"]:
        architecture = gguf.MODEL_ARCH.NEMOTRON_H_MOE
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_metadata(writer, config)
    for key, value in (tokenizer or {}).items():
        add = {str: writer.add_string, list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32}
        add[type(value)](key, value)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, values in _stacked(_tensors(directory, config)):
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        if config["model_type"] == "lfm2_moe":
            name = name.replace("expert_bias", "expert_bias.bias")
            name = name.removeprefix("model.") if ".experts." in name else name
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target or name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(directory: Path, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    kind, rope = config["model_type"], config.get("rope_parameters") or {}
    is_granite = kind in ("granitemoeshared", "granitemoehybrid")
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    if kind in GEMMA:
        yield from gemma_tensors(load_file(directory / "model.safetensors"), config)
        return
    for name, values in load_file(directory / "model.safetensors").items():
        part = name.split(".")[-2]
        if (
            kind in ("llama", "mistral", "ministral3", "mixtral", "granite", "smollm3", "arcee") or is_granite
        ) and part in heads:
            values = interleave(values, heads[part])
        if kind in ("gemma", "gemma2", "gemma3_text", "nemotron") and name.endswith("norm.weight"):
            values = values + 1
        if kind == "gpt2" and ".c_" in name and values.ndim == 2:
            values = values.T
        if "query_key_value" in name:
            values = _ungroup(values, _kv_heads(config), config["num_attention_heads"])
        if kind == "gpt_oss" and (".experts." in name or name.endswith(".sinks")):
            yield from _gpt_oss_tensors(name, values)
            continue
        if is_granite and ("input_linear" in name or "shared_mlp" in name):
            yield from _granite_tensors(name, values, has_experts=config["num_local_experts"] > 0)
            continue
        if kind in ("granitemoehybrid", "nemotron_h"):
            yield from _mamba_tensors(name, values, config)
            continue
        if kind == "llama4_text" and ".experts." in name:
            yield from _llama4_tensors(name, values)
            continue
        if name.endswith(("conv.conv.weight", "conv1d.weight")):
            values = values[:, 0]
        if kind in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
            yield from _delta_tensors(name, values, config)
            continue
        if name.endswith("kv_b_proj.weight"):
            heads_HNL = values.reshape(config["num_attention_heads"], -1, config["kv_lora_rank"])
            plain = config["qk_nope_head_dim"]
            yield name.replace("kv_b", "k_b"), heads_HNL[:, :plain].swapaxes(1, 2)
            yield name.replace("kv_b", "v_b"), heads_HNL[:, plain:]
            continue
        if name.endswith("shared_expert_gate.weight"):
            values = values[0]  # as in files from before 2026; newer ones, as those of Qwen3-Next here, have its axis
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        yield name, values
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_divisors(rope, config["head_dim"])
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", np.array(rope["long_factor"])
        yield "rope_factors_short.weight", np.array(rope["short_factor"])


def _stacked(tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """The experts of a layer in one tensor, where the file has them one by one."""
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, values in tensors:
        if found := re.search(r"experts\.(\d+)\.", name):
            merged = name.replace(found[0], "experts.")
            experts.setdefault(merged, {})[int(found[1])] = values
        else:
            yield name, values
    for name, by_number in experts.items():
        yield name, np.stack([by_number[number] for number in range(len(by_number))])


def _delta_tensors(name: str, values: np.ndarray, config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Norms with their 1, rates as they are used, and q, k, v under each other; in Qwen 3.5 value heads are in turn."""
    key_dim, value_dim = config["linear_key_head_dim"], config["linear_value_head_dim"]
    heads, each = config["linear_num_key_heads"], config["linear_num_value_heads"] // config["linear_num_key_heads"]
    is_new = config["model_type"] != "qwen3_next"

    def turned(rows: np.ndarray, dim: int) -> np.ndarray:
        by_head = rows.reshape(heads, each, dim, *rows.shape[1:])
        return (by_head.swapaxes(0, 1) if is_new else by_head).reshape(rows.shape)

    part = name.rpartition("linear_attn.")[2]
    if part == "in_proj_qkvz.weight":
        rows = values.reshape(heads, -1, values.shape[1])
        cuts = np.cumsum([key_dim, key_dim, each * value_dim])
        q, k, v, z = (one.reshape(-1, values.shape[1]) for one in np.split(rows, cuts, axis=1))
        yield name.replace("qkvz", "qkv"), np.concatenate([q, k, v])
        yield name.replace("qkvz", "z"), z
    elif part in ("in_proj_qkv.weight", "conv1d.weight"):
        yield name, np.concatenate([values[: 2 * heads * key_dim], turned(values[2 * heads * key_dim :], value_dim)])
    elif part == "in_proj_z.weight":
        yield name, turned(values, value_dim)
    elif part in ("in_proj_a.weight", "in_proj_b.weight"):
        yield name, turned(values, 1)
    elif part == "A_log":
        yield name, turned(-np.exp(values.astype(np.float64)), 1)
    elif part == "dt_bias":
        yield name.replace("dt_bias", "dt_proj.bias"), turned(values, 1)
    elif part == "out_proj.weight":
        yield name, turned(values.T, value_dim).T
    else:
        yield name, values + 1 if name.endswith("norm.weight") and part == name else values


def _gpt_oss_tensors(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Inputs before outputs, and gate and up in turn, in the file."""
    if name.endswith(".sinks"):
        yield f"{name}.weight", values
        return
    suffix, is_bias = ("bias", True) if name.endswith("_bias") else ("weight", False)
    base, values = name.removesuffix("_bias"), values if is_bias else values.swapaxes(1, 2)
    if base.endswith("down_proj"):
        yield f"{base}.{suffix}", values
    else:
        yield f"{base.replace('gate_up', 'gate')}.{suffix}", values[:, 0::2]
        yield f"{base.replace('gate_up', 'up')}.{suffix}", values[:, 1::2]


def _granite_tensors(name: str, values: np.ndarray, *, has_experts: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Gate above up in the file; without experts, the shared MLP is the layer's. Source of the names: llama.cpp,
    conversion/granite.py."""
    layer = name.split(".")[2]
    suffix = "_exps" if "shared_mlp" not in name else "_shexp" if has_experts else ""
    if "output_linear" in name:
        yield f"blk.{layer}.ffn_down{suffix}.weight", values
        return
    for part, rows in zip(("gate", "up"), np.split(values, 2, axis=-2), strict=True):
        yield f"blk.{layer}.ffn_{part}{suffix}.weight", rows


def _mamba_tensors(name: str, values: np.ndarray, config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Rates as they are used, numbers of heads as columns, and a row of the norm for each group. Source: llama.cpp,
    conversion/mamba.py (Mamba2Model)."""
    if name.endswith("A_log"):
        yield name, -np.exp(values.astype(np.float64))[:, None]
    elif name.endswith((".D", "mamba.D")):
        yield name, values[:, None]
    elif name.endswith("dt_bias"):
        yield name.replace("dt_bias", "dt_proj.bias" if "mamba" in name else "dt.bias"), values
    elif name.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        yield name, values.reshape(config.get("mamba_n_groups") or config["n_groups"], -1)
    elif name.endswith("conv1d.weight"):
        yield name, values[:, 0]
    elif ".mixer.experts." in name:
        yield name.replace("backbone.layers", "model.layers").replace("mixer.experts", "mlp.experts"), values
    else:
        yield name, values


def _read_kinds(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that Nemotron-H has for each layer."""
    if config["model_type"] != "nemotron_h":
        return {}
    kinds = config["layers_block_type"]
    columns = config["moe_intermediate_size" if "moe" in kinds else "intermediate_size"]
    return {
        "num_hidden_layers": len(kinds),
        "intermediate_size": [columns if kind in ("mlp", "moe") else 0 for kind in kinds],
        "layer_types": kinds,
        "n_routed_experts": config["n_routed_experts"] if "moe" in kinds else 0,
    }


def _llama4_tensors(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Inputs before outputs, and gate before up, in the file."""
    values = values.swapaxes(1, 2)
    if name.endswith("down_proj"):
        yield f"{name}.weight", values
        return
    gate, up = np.split(values, 2, axis=1)
    yield name.replace("gate_up_proj", "gate_proj.weight"), gate
    yield name.replace("gate_up_proj", "up_proj.weight"), up


def interleave(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of heads that rotate by halves, in the order in which neighbors rotate together."""
    halves = values.reshape(num_heads, 2, len(values) // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _layer_kv_heads(config: Mapping[str, Any]) -> int | list[int]:
    heads = _kv_heads(config)
    if config["model_type"] not in ("lfm2", "lfm2_moe", "granitemoehybrid", "nemotron_h"):
        return heads
    return [heads if kind == "full_attention" else 0 for kind in config["layer_types"]]


def _kv_heads(config: Mapping[str, Any]) -> int:
    if config["model_type"] == "falcon" and not config["new_decoder_architecture"]:
        return 1 if config["multi_query"] else config["num_attention_heads"]
    if "kv_lora_rank" in config:
        return 1
    in_all = config["model_type"] in ("gpt2", "gpt_neox")
    return config["num_attention_heads" if in_all else "num_key_value_heads"]


def _ungroup(values: np.ndarray, num_groups: int, num_heads: int) -> np.ndarray:
    """Queries, keys and values under each other, which the file has in turn for each key head."""
    per_group = num_heads // num_groups
    groups = values.reshape(num_groups, per_group + 2, -1, *values.shape[1:])
    parts = (groups[:, :per_group], groups[:, per_group : per_group + 1], groups[:, per_group + 1 :])
    return np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])


def _llama3_divisors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    divisors = []
    for pair in range(0, head_dim, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (pair / head_dim)
        turns = rope["original_max_position_embeddings"] / length
        share = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        share = min(1.0, max(0.0, share))
        divisors.append(1 / ((1 - share) / rope["factor"] + share))
    return np.array(divisors)


def _add_metadata(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    if config["model_type"] in GEMMA:
        add_gemma(writer, config)
        config = {**config, **own_settings(config)}
        head_dim = config["head_dim"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config.get("intermediate_size") or 4 * config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(_layer_kv_heads(config))
    _add_epsilon(writer, config)
    if "kv_lora_rank" in config:
        _add_latent(writer, config)
    else:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    _add_experts(writer, config)
    if "mamba_n_heads" in config or "mamba_num_heads" in config:
        _add_mamba(writer, config)
    if config["model_type"] in ("granite", "granitemoeshared", "granitemoehybrid"):
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if config["model_type"] == "gemma2":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] in ("olmo3", "exaone4", "cohere2") and config["sliding_window"]:
        writer.add_sliding_window(config["sliding_window"])
        if config["model_type"] != "cohere2":
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if config["model_type"] == "ministral3":
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
    if config["model_type"] in ("cohere", "cohere2"):
        writer.add_logit_scale(config["logit_scale"])
    if "use_parallel_residual" in config:
        writer.add_parallel_residual(config["use_parallel_residual"])
    if config["model_type"] in ("gpt2", "nemotron_h"):
        return
    if config["model_type"] in ("mistral", "mixtral", "phi3", "gpt_oss"):
        writer.add_sliding_window(config["sliding_window"] or 0)
    if config["model_type"] == "gemma3_text":
        _add_gemma3(writer, config)
    rope = rope.get("full_attention", rope)
    if "mrope_section" in rope:
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    theta = rope["rope_theta"] * rope.get("alpha", 1.0) ** (head_dim / (head_dim - 2))
    writer.add_rope_freq_base(theta)
    rotary_dim = (
        config.get("rotary_dim")
        or config.get("qk_rope_head_dim")
        or int(head_dim * rope.get("partial_rotary_factor", 1.0))
    )
    writer.add_rope_dimension_count(rotary_dim)
    _add_rope_scaling(writer, rope, config["max_position_embeddings"])


def _add_latent(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    rank, rotary = config["kv_lora_rank"], config["qk_rope_head_dim"]
    if config["q_lora_rank"] is not None:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rotary)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotary)
    writer.add_value_length_mla(config["v_head_dim"])


def _add_epsilon(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    if config["model_type"] in ("lfm2", "lfm2_moe"):
        writer.add_shortconv_l_cache(config["conv_L_cache"])
        writer.add_layer_norm_rms_eps(config["norm_eps"])
        return
    if "linear_num_key_heads" in config:
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"):
        if key in config:
            writer.add_layer_norm_eps(config[key])


def _add_mamba(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    is_granite = "mamba_n_heads" in config
    heads = config["mamba_n_heads" if is_granite else "mamba_num_heads"]
    inner = config["mamba_expand"] * config["hidden_size"] if is_granite else heads * config["mamba_head_dim"]
    writer.add_ssm_conv_kernel(config["mamba_d_conv" if is_granite else "conv_kernel"])
    writer.add_ssm_state_size(config["mamba_d_state" if is_granite else "ssm_state_size"])
    writer.add_ssm_group_count(config["mamba_n_groups" if is_granite else "n_groups"])
    writer.add_ssm_time_step_rank(heads)
    writer.add_ssm_inner_size(inner)
    writer.add_rope_scaling_finetuned(config.get("position_embedding_type") == "rope")


def _add_experts(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    keys = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
    count = next((config[key] for key in keys if config.get(key)), 1)
    if count == 1:
        return
    config = {"num_experts_per_tok": config.get("moe_k"), **config}
    writer.add_expert_count(count)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config["model_type"] in ("deepseek_v2", "deepseek_v3", "glm4_moe_lite"):
        _add_latent_experts(writer, config)
    if config["model_type"] == "lfm2_moe":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if config["model_type"] == "nemotron_h":
        writer.add_expert_weights_norm(config["norm_topk_prob"])
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_group_count(config["n_group"])
    if config["model_type"] == "glm4_moe":
        writer.add_leading_dense_block_count(config["first_k_dense_replace"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_norm(config["norm_topk_prob"])
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_shared_count(config["n_shared_experts"])
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])
    if config["model_type"] in ("gpt_oss", "minimax_m2", "hunyuan_v1_moe", "llama4_text"):
        writer.add_expert_feed_forward_length(config["expert_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _add_latent_experts(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    if config["model_type"] == "deepseek_v2":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    else:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_norm(config["norm_topk_prob"])
    if config.get("topk_method", "") != "greedy":
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def _add_gemma3(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_sliding_window(config["sliding_window"])
    writer.add_array(
        "gemma3.attention.sliding_window_pattern", [kind == "sliding_attention" for kind in config["layer_types"]]
    )
    writer.add_float32("gemma3.rope.freq_base_swa", config["rope_parameters"]["sliding_attention"]["rope_theta"])
    if config["attn_logit_softcapping"]:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _add_rope_scaling(writer: gguf.GGUFWriter, rope: Mapping[str, Any], context: int) -> None:
    match rope["rope_type"]:
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            added = {
                "attention_factor": writer.add_rope_scaling_yarn_attn_factor,
                "beta_fast": writer.add_rope_scaling_yarn_beta_fast,
                "beta_slow": writer.add_rope_scaling_yarn_beta_slow,
            }
            for key, add in added.items():
                if rope.get(key) is not None:
                    add(rope[key])
            if "mscale_all_dim" in rope and writer.arch == "deepseek2":
                writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
        case "longrope":
            original = rope["original_max_position_embeddings"]
            writer.add_rope_scaling_orig_ctx_len(original)
            extension = context / original
            factor = math.sqrt(1 + math.log(extension) / math.log(original)) if extension > 1 else 1.0
            writer.add_rope_scaling_attn_factors(factor)
        case _:
            pass
