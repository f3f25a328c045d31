"""Random LoRA adapters in PEFT's layout for tests, and the model that one of them makes of its base.

What an adapter does is computed here with PyTorch alone: W + scale * B A in the place of W.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.model.converted_gguf import interleave

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."
_SIZE = 0.15
"""of random numbers: as large as those of tiny models, so that the answers become others"""


def module_shapes(directory: Path, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the modules of a model whose last name is one of `targets`."""
    from tests.numerics.reference import load_reference

    shapes: dict[str, tuple[int, int]] = {}
    for name, module in load_reference(directory).named_modules():
        if name.rpartition(".")[2] in targets and hasattr(module, "weight"):
            shape = tuple(module.weight.shape)
            shapes[name] = (shape[1], shape[0]) if type(module).__name__ == "Conv1D" else (shape[0], shape[1])
    return shapes


def write_adapter(
    directory: Path,
    shapes: Mapping[str, tuple[int, int]],
    *,
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 0,
    dtype: Any = np.float32,
    ranks: Mapping[str, int] | None = None,
    **fields: Any,
) -> Path:
    """Write a random adapter for modules of these shapes; `ranks` are those of some modules, `fields` go into its
    settings."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for module, (num_outputs, num_inputs) in shapes.items():
        own = (ranks or {}).get(module, rank)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = _SIZE * rng.standard_normal((own, num_inputs))
        tensors[f"{PREFIX}{module}.lora_B.weight"] = _SIZE * rng.standard_normal((num_outputs, own))
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: values.astype(dtype) for name, values in tensors.items()}, directory / "adapter_model.safetensors")
    targets = sorted({module.rpartition(".")[2] for module in shapes})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": targets,
        **fields,
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def tiny_adapter(model: Path, directory: Path, *, targets: Sequence[str] = PROJECTIONS, **options: Any) -> Path:
    """Write a random adapter for all modules of a model with these names; see `write_adapter`."""
    return write_adapter(directory, module_shapes(model, targets), **options)


def merged_reference(model: Path, adapter: Path) -> Any:
    """The Hugging Face model with the adapter added to its weights."""
    import torch

    from tests.numerics.reference import load_reference

    reference = load_reference(model)
    modules = dict(reference.named_modules())
    with torch.no_grad():
        for name, delta in deltas(adapter).items():
            module = modules[name]
            change = torch.from_numpy(delta)
            module.weight += change.T if type(module).__name__ == "Conv1D" else change
    return reference


def deltas(adapter: Path) -> dict[str, np.ndarray]:
    """What an adapter adds to each module's weight."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    tensors = {
        name: values.astype(np.float32) for name, values in load_file(adapter / "adapter_model.safetensors").items()
    }
    found: dict[str, np.ndarray] = {}
    for name, a in tensors.items():
        if ".lora_A." not in name:
            continue
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        b = tensors[name.replace(".lora_A.", ".lora_B.")]
        alpha = next(
            (
                alpha
                for pattern, alpha in settings.get("alpha_pattern", {}).items()
                if re.fullmatch(rf"(.*\.)?({pattern})", module)
            ),
            settings["lora_alpha"],
        )
        rank = a.shape[0]
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        found[module] = (scale * (b @ a)).astype(np.float32)
    return found


def gguf_adapter(model: Path, adapter: Path, path: Path, architecture: gguf.MODEL_ARCH) -> Path:
    """The same adapter as llama.cpp's convert_lora_to_gguf.py writes it: names from the gguf package's own table, and B
    of queries and keys in the order of their weights."""
    config = json.loads((model / "config.json").read_text())
    settings = json.loads((adapter / "adapter_config.json").read_text())
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", settings["lora_alpha"])
    for name, values in load_file(adapter / "adapter_model.safetensors").items():
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        part = module.rpartition(".")[2]
        if side == "B" and part in heads and architecture == gguf.MODEL_ARCH.LLAMA:
            values = interleave(values, heads[part])
        target = names.get_name(module)
        writer.add_tensor(f"{target}.weight.lora_{side.lower()}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
