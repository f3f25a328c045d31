"""A LoRA adapter as PEFT writes it: a directory with adapter_config.json and adapter_model.safetensors.

Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md and src/peft/tuners/lora/config.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.adapter.low_rank import ITEM_TYPES, Floats, LowRank
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.huggingface.tensor_files import Tensor, read_header
from shoal.model.formats.model_file import read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_KINDS = {"F32": Kind.F32, "F16": Kind.F16, "BF16": Kind.BF16}
_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_USED = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"}
_OF_TRAINING = {
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
"""Fields that say how an adapter was trained, or which modules it changes, which its tensors show as well."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "true", "True")
"""Initializations of training that leave the model's own weights unchanged."""
_MAX_PATTERN = 200
_QUANTIFIED_GROUP = re.compile(r"\)[*+?{]")
_QUANTIFIER = re.compile(r"(?<!\\)[*+{]")
_MAX_QUANTIFIERS = 2


class PeftSettings:
    """Ranks and scales in adapter_config.json. Raises ModelLoadError for settings that are not supported."""

    def __init__(self, path: Path) -> None:
        self._path = path
        fields = read_json(path)
        _check_plain(path, fields)
        self._rank = _number(path, "r", fields.get("r"))
        self._alpha = _number(path, "lora_alpha", fields.get("lora_alpha", 8))
        self._ranks = _patterns(path, "rank_pattern", fields.get("rank_pattern"))
        self._alphas = _patterns(path, "alpha_pattern", fields.get("alpha_pattern"))
        self._by_root = fields.get("use_rslora") is True

    def scale(self, module: str, rank: int) -> float:
        """The factor on the term of a module.

        Raises:
            ModelLoadError: the settings give another rank than its tensors have.
        """
        said = _of(self._ranks, module, self._rank)
        if said != rank:
            raise ModelLoadError(f"{self._path}: it gives {module} the rank {said:g}, but its tensors have rank {rank}")
        alpha = _of(self._alphas, module, self._alpha)
        return alpha / sqrt(rank) if self._by_root else alpha / rank


def read_peft(directory: Path) -> dict[str, LowRank]:
    """The terms that an adapter adds to the modules of its model, by module names.

    Raises:
        ModelLoadError: a file is missing or broken, or contains something that is not supported.
    """
    if not (directory / CONFIG_FILE).exists():
        raise ModelLoadError(f"{directory}: there is no {CONFIG_FILE}; an adapter is a directory that PEFT has written")
    settings, path = PeftSettings(directory / CONFIG_FILE), directory / WEIGHTS_FILE
    if not path.exists():
        raise ModelLoadError(f"{path} is missing; an adapter's weights are read only from safetensors")
    sides: dict[str, dict[str, Floats]] = {}
    for name, tensor in read_header(path).items():
        found = _TENSOR.fullmatch(name)
        if found is None:
            raise ModelLoadError(f"{path}: it contains {name}, which is neither A nor B of a LoRA adapter")
        sides.setdefault(found["module"], {})[found["side"]] = _floats(path, name, tensor)
    return {module: _pair(path, module, pair, settings) for module, pair in sides.items()}


def _pair(path: Path, module: str, pair: Mapping[str, Floats], settings: PeftSettings) -> LowRank:
    if len(pair) != 2:
        raise ModelLoadError(f"{path}: {module} has only one of A and B")
    a, b = pair["A"], pair["B"]
    if b.shape[1] != a.shape[0]:
        raise ModelLoadError(f"{path}: {module} has A of rank {a.shape[0]} and B of rank {b.shape[1]}")
    return LowRank(a=a, b=b, scale=settings.scale(module, a.shape[0]), module=module)


def _floats(path: Path, name: str, tensor: Tensor) -> Floats:
    kind = _KINDS.get(tensor.dtype)
    if kind is None or len(tensor.shape) != 2:
        raise ModelLoadError(f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; A and B are matrices of floats")
    items = tensor.items(ITEM_TYPES[kind])
    if items.size != prod(tensor.shape):
        raise ModelLoadError(
            f"{path}: {name} has {items.size} numbers, which does not fit its shape {list(tensor.shape)}"
        )
    return Floats(kind=kind, items=items.reshape(tensor.shape))


def _check_plain(path: Path, fields: Mapping[str, Any]) -> None:
    if (kind := fields.get("peft_type")) != "LORA":
        raise ModelLoadError(f"{path}: peft_type is {kind!r}; only LORA is supported")
    if (bias := fields.get("bias", "none")) != "none":
        raise ModelLoadError(f"{path}: bias is {bias!r}; adapters with biases of their own are not supported")
    start = fields.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ModelLoadError(
            f"{path}: init_lora_weights is {start!r}, which changes the model's own weights; save the adapter with "
            "path_initial_model_for_weight_conversion"
        )
    for name, value in fields.items():
        if value and name not in _USED and name not in _OF_TRAINING:
            raise ModelLoadError(f"{path}: {name} is {str(value)[:80]}, which is not supported")


def _number(path: Path, name: str, value: object) -> float:
    """A positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ModelLoadError(f"{path}: {name} is {value!r}, which is not a positive number")
    return float(value)


def _patterns(path: Path, name: str, value: object) -> list[tuple[re.Pattern[str], float]]:
    """Numbers of modules by a regular expression for the end of their names, in the file's order."""
    if not value:
        return []
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: {name} is not an object")
    return [(_compiled(path, name, str(key)), _number(path, f"{name}[{key}]", number)) for key, number in value.items()]


def _compiled(path: Path, name: str, pattern: str) -> re.Pattern[str]:
    """Compile an expression. Those that may take long to match are refused, since they come from a file."""
    slow = len(_QUANTIFIER.findall(pattern)) > _MAX_QUANTIFIERS or _QUANTIFIED_GROUP.search(pattern)
    try:
        if slow or len(pattern) > _MAX_PATTERN:
            raise ModelLoadError(f"{path}: {name} has an expression that could take long to match: {pattern[:80]!r}")
        return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except re.error as error:
        raise ModelLoadError(f"{path}: {name}: {pattern!r} is not a regular expression ({error})") from error


def _of(patterns: list[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
    return next((number for pattern, number in patterns if pattern.fullmatch(module)), default)
