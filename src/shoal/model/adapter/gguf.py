"""A LoRA adapter in a GGUF file, as llama.cpp's convert_lora_to_gguf.py writes it.

Source: github.com/ggml-org/llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

from __future__ import annotations

from pathlib import Path

from shoal.errors import ModelLoadError
from shoal.model.adapter.low_rank import ITEM_TYPES, Floats, LowRank
from shoal.model.formats.gguf.header import GgufHeader

_SIDES = (".weight.lora_a", ".weight.lora_b")


def read_gguf(path: Path, architecture: str) -> dict[str, LowRank]:
    """The terms that an adapter adds to the matrices of its model, by tensor names without `.weight`.

    Args:
        path: of the file.
        architecture: of the model.

    Raises:
        ModelLoadError: the file is broken, is not a LoRA adapter, or is one for another architecture.
    """
    header = GgufHeader(path)
    kind = header.metadata.get("general.type"), header.metadata.get("adapter.type")
    if kind != ("adapter", "lora"):
        raise ModelLoadError(f"{path}: general.type and adapter.type are {kind}, not those of a LoRA adapter")
    if (own := header.metadata.get("general.architecture")) != architecture:
        raise ModelLoadError(
            f"{path}: it is an adapter for a model of {own!r}, but this model is one of {architecture!r}"
        )
    alpha = header.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, float) or not 0 < alpha < 1e6:
        raise ModelLoadError(f"{path}: adapter.lora.alpha is {alpha!r}, which is not a positive number")
    modules = {name.removesuffix(side) for name in header.tensors for side in _SIDES if name.endswith(side)}
    others = [name for name in header.tensors if not name.endswith(_SIDES)]
    if others:
        raise ModelLoadError(f"{path}: it contains {others[0]}, which is neither A nor B of a LoRA adapter")
    return {module: _pair(path, header, module, alpha) for module in sorted(modules)}


def _pair(path: Path, header: GgufHeader, module: str, alpha: float) -> LowRank:
    a, b = (_floats(path, header, module + side) for side in _SIDES)
    if b.shape[1] != a.shape[0]:
        raise ModelLoadError(f"{path}: {module} has A of rank {a.shape[0]} and B of rank {b.shape[1]}")
    return LowRank(a=a, b=b, scale=alpha / a.shape[0], module=module)


def _floats(path: Path, header: GgufHeader, name: str) -> Floats:
    tensor = header.tensors.get(name)
    if tensor is None:
        raise ModelLoadError(f"{path}: there is no tensor {name!r}")
    if tensor.kind not in ITEM_TYPES or len(tensor.shape) != 2:
        raise ModelLoadError(f"{path}: {name} is {tensor.kind.name} {list(tensor.shape)}, not a matrix of floats")
    return Floats(kind=tensor.kind, items=header.rows(name).view(ITEM_TYPES[tensor.kind]))
