"""GGUF files of a tiny model that sees, with the names and keys that llama.cpp's converter writes: the language model
and, beside it, the multimodal projector.

Names come from the gguf package's own tables. Source of the rest: llama.cpp, conversion/qwenvl.py, qwen3vl.py and
gemma.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from shoal.model.text.vocabulary.to_gguf import tokenizer_metadata
from tests.model.converted_gguf import convert

_ARCHITECTURES = {
    "qwen2_5_vl": ("qwen2", gguf.MODEL_ARCH.QWEN2VL),
    "qwen3_vl": ("qwen3", gguf.MODEL_ARCH.QWEN3VL),
    "qwen3_vl_moe": ("qwen3_moe", gguf.MODEL_ARCH.QWEN3VLMOE),
    "gemma3": ("gemma3_text", gguf.MODEL_ARCH.GEMMA3),
}
"""by family: the language model alone in transformers, and in GGUF"""
_PROJECTORS = {"qwen2_5_vl": "qwen2.5vl_merger", "gemma3": "gemma3"}
_OTHER = {
    "visual.merger.linear_fc1": "mm.0",
    "visual.merger.linear_fc2": "mm.2",
    "visual.merger.norm": "v.post_ln",
    "visual.patch_embed.proj": "v.patch_embd",
}
"""what the converter of Qwen3-VL names by itself"""
_VISION = ("visual.", "model.visual.", "vision_tower.", "multi_modal_projector.")
_ENDS_OF_TEXTS = (2,)


def convert_vision(directory: Path, folder: Path, *, halves: bool = False) -> Path:
    """Write both files into a folder that is there, and make of the directory what they can say.

    Args:
        directory: from `make_tiny_vision`; its settings become those that such files cannot say otherwise.
        folder: for the files.
        halves: the matrices of the projector have 16 bits, and those of the directory the same values.

    Returns:
        The language model's file.
    """
    config = _settle(directory)
    if halves:
        tensors = load_file(directory / "model.safetensors")
        save_file({name: _halved(values) for name, values in tensors.items()}, directory / "model.safetensors")
    _write_projector(directory, folder / "mmproj-tiny.gguf", config, halves=halves)
    kind, architecture = _ARCHITECTURES[config["model_type"]]
    text = folder / "text"
    text.mkdir()
    settings = {**config["text_config"], "model_type": kind, "tie_word_embeddings": False}
    (text / "config.json").write_text(json.dumps(settings))
    save_file(dict(_text_tensors(directory)), text / "model.safetensors")
    keys = tokenizer_metadata(
        Tokenizer.from_file(str(directory / "tokenizer.json")),
        num_rows=config["text_config"]["vocab_size"],
        eos_token_ids=_ENDS_OF_TEXTS,
        special_tokens={"eos_token": "<|im_end|>"},
        chat_templates={"default": _json(directory / "tokenizer_config.json")["chat_template"]},
    )
    return convert(text, folder / "tiny.gguf", architecture, keys)


def _settle(directory: Path) -> dict[str, Any]:
    """Sizes of pictures and windows, which llama.cpp has as constants."""
    config, cuts = _json(directory / "config.json"), _json(directory / "preprocessor_config.json")
    side = 2 * config["vision_config"]["patch_size"]
    if config["model_type"] != "gemma3":
        cuts |= {"size": {"shortest_edge": 8 * side**2, "longest_edge": 4096 * side**2}}
        cuts = {key: value for key, value in cuts.items() if key not in ("min_pixels", "max_pixels")}
    if config["model_type"] == "qwen2_5_vl":
        config["vision_config"]["window_size"] = 112
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(cuts))
    return config


def _write_projector(directory: Path, path: Path, config: Mapping[str, Any], *, halves: bool) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    vision, family = config["vision_config"], config["model_type"]
    layers = vision.get("depth") or vision["num_hidden_layers"]
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(_PROJECTORS.get(family, "qwen3vl_merger"))
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_image_size(vision.get("image_size", 560))
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(vision.get("num_heads") or vision["num_attention_heads"])
    mean, deviation = _colors(directory, family)
    writer.add_vision_image_mean(mean)
    writer.add_vision_image_std(deviation)
    writer.add_vision_attention_layernorm_eps(1e-6)
    if family == "qwen2_5_vl":
        writer.add_vision_use_silu(True)
        writer.add_vision_n_wa_pattern(vision["fullatt_block_indexes"][0] + 1)
    else:
        writer.add_vision_use_gelu(True)
    if family == "gemma3":
        side = vision["image_size"] // vision["patch_size"]
        writer.add_vision_projector_scale_factor(side // int(config["mm_tokens_per_image"] ** 0.5))
    elif family != "qwen2_5_vl":
        writer.add_vision_spatial_merge_size(vision["spatial_merge_size"])
        deep = vision["deepstack_visual_indexes"]
        writer.add_vision_is_deepstack_layers([layer in deep for layer in range(layers)])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, layers)
    for name, values in _vision_tensors(directory, vision):
        stem, _, suffix = name.rpartition(".") if name[-1] != "1" else (name[:-9], "", "weight.1")
        target = _OTHER.get(stem) or names.get_name(stem) or stem
        kind = np.float16 if halves and values.ndim > 1 and "position" not in target else np.float32
        writer.add_tensor(f"{target}.{suffix}", np.ascontiguousarray(values, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vision_tensors(directory: Path, vision: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    deep = vision.get("deepstack_visual_indexes", ())
    for name, values in load_file(directory / "model.safetensors").items():
        if not name.startswith(_VISION):
            continue
        name = name.removeprefix("model.").replace("_weight", ".weight")
        name = name.replace("vision_tower.", "vision_tower.vision_model.")
        if "patch_embed.proj.weight" in name:
            yield name, values[:, :, 0]
            yield f"{name}.1", values[:, :, 1]
        elif ".qkv." in name and not deep:
            for part, rows in zip("qkv", np.split(values, 3), strict=True):
                yield name.replace("qkv", part), rows
        elif "deepstack_merger_list" in name:
            _, _, place, rest = name.split(".", 3)
            yield f"v.deepstack.{deep[int(place)]}.{rest.removeprefix('linear_')}", values
        else:
            yield name, values + 1 if "soft_emb_norm" in name else values


def _text_tensors(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    for name, values in load_file(directory / "model.safetensors").items():
        if name.startswith(_VISION):
            continue
        name = name.removeprefix("language_model.").replace("model.language_model.", "model.")
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(values, 2, axis=1)
            yield name.replace("gate_up_proj", "gate_proj.weight"), np.ascontiguousarray(gate)
            yield name.replace("gate_up_proj", "up_proj.weight"), np.ascontiguousarray(up)
        else:
            yield f"{name}.weight" if name.endswith("experts.down_proj") else name, values


def _colors(directory: Path, family: str) -> tuple[list[float], list[float]]:
    cuts = _json(directory / "preprocessor_config.json")
    if family == "qwen2_5_vl":
        return [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return cuts.get("image_mean", [0.5] * 3), cuts.get("image_std", [0.5] * 3)


def _halved(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
