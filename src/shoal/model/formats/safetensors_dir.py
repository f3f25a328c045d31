"""A Hugging Face directory of safetensors as a WeightSource.

Files are mapped and only their headers are parsed; NumPy has no bfloat16, so the bytes are widened here.
Source: safetensors format, github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf_blocks import Form, check_columns, choose_form, form_bytes
from shoal.model.formats.hf_config import config_from_hf, read_json
from shoal.model.formats.quantization import quantize_rows
from shoal.model.weights import F32, DenseWeight, Precision, Range, Weight, resolve_range

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
INDEX_FILE = "model.safetensors.index.json"
TOP_NAMES = {"embedding": "embed_tokens.weight", "final_norm": "norm.weight"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "o": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
GEMMA3_NAMES = {
    "post_attn_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}
NORMS = ("attn_norm", "q_norm", "k_norm", "post_attn_norm", "mlp_norm", "post_mlp_norm", "final_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    data: mmap.mmap
    dtype: str
    shape: tuple[int, ...]
    start_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some rows of a tensor."""

    tensor: _Tensor
    start: int
    stop: int


class SafetensorsDir:
    """Weights of a Hugging Face directory, sharded or not, read when asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: a file is missing or broken, or the architecture is not supported.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = config_from_hf(directory)
        self._tensors: dict[str, _Tensor] = {}
        for path in _weight_files(directory):
            self._tensors |= read_header(path)
        self._prefix = self._find_prefix()

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix at that precision, or a part of it; `auto` is fp32: the files hold floats. See `WeightSource`."""
        part = _cut(self._locate(name), rows)
        form, resolved = self._form(name, part, precision, columns)
        values_NK = _to_float32(part, resolved)
        match form:
            case "int8":
                return quantize_rows(values_NK, 8)
            case "int4":
                return quantize_rows(values_NK, 4)
            case _:
                return DenseWeight(values_NK=values_NK)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32; Gemma's norms with the 1 added that its layers add. See `WeightSource`."""
        values = _to_float32(_cut(self._locate(name), span))
        adds_one = self._config.family == "gemma3" and name.rpartition(".")[2] in NORMS
        return values + np.float32(1) if adds_one else values.copy()

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """What `matrix(...).num_bytes` would be, from the headers alone."""
        part = _cut(self._locate(name), rows)
        form, (first, last) = self._form(name, part, precision, columns)
        return form_bytes(form, Kind.F32, part.stop - part.start, last - first)

    def _form(self, name: str, part: _Part, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
        """What the whole matrix becomes, and the columns of it that are wanted."""
        num_columns = part.tensor.shape[-1]
        form = choose_form(Kind.F32, precision, num_columns=num_columns, is_vocabulary=name in ("embedding", "head"))
        resolved = resolve_range(columns, num_columns)
        check_columns(form, resolved)
        return form, resolved

    def _find_prefix(self) -> str:
        """What stands before `embed_tokens` and `layers`; it differs for models taken out of a multimodal one."""
        suffix = TOP_NAMES["embedding"]
        for name in self._tensors:
            if name.endswith(suffix):
                return name.removesuffix(suffix)
        raise ModelLoadError(f"{self._directory}: there is no tensor that ends in {suffix!r}")

    def _locate(self, name: str) -> _Part:
        if name == "head":
            head = next((tensor for tensor in self._tensors if tensor.endswith("lm_head.weight")), None)
            if self._config.tied_embeddings or head is None:
                return self._locate("embedding")
            return _whole(self._tensors[head])
        if name in TOP_NAMES:
            return _whole(self._tensor(self._prefix + TOP_NAMES[name]))
        _, layer, leaf = name.split(".")
        prefix = f"{self._prefix}layers.{layer}."
        own_names = GEMMA3_NAMES if self._config.family == "gemma3" else {}
        return self._fused_part(prefix, leaf) or _whole(self._tensor(prefix + (LAYER_NAMES | own_names)[leaf]))

    def _fused_part(self, prefix: str, leaf: str) -> _Part | None:
        """Rows of Phi-3's fused tensors: q, k, v under each other, gate above up."""
        config = self._config
        q_rows, kv_rows, mlp_rows = (
            config.num_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
            config.intermediate_size,
        )
        bounds = {
            "q": ("self_attn.qkv_proj.weight", 0, q_rows),
            "k": ("self_attn.qkv_proj.weight", q_rows, kv_rows),
            "v": ("self_attn.qkv_proj.weight", q_rows + kv_rows, kv_rows),
            "gate": ("mlp.gate_up_proj.weight", 0, mlp_rows),
            "up": ("mlp.gate_up_proj.weight", mlp_rows, mlp_rows),
        }
        if leaf not in bounds or prefix + bounds[leaf][0] not in self._tensors:
            return None
        fused, start, num_rows = bounds[leaf]
        tensor = self._tensor(prefix + fused)
        if start + num_rows > tensor.shape[0]:
            raise ModelLoadError(f"{self._directory}: {prefix}{fused} has too few rows for what config.json says")
        return _Part(tensor=tensor, start=start, stop=start + num_rows)

    def _tensor(self, name: str) -> _Tensor:
        if name not in self._tensors:
            raise ModelLoadError(f"{self._directory}: there is no tensor {name!r}")
        return self._tensors[name]


def _weight_files(directory: Path) -> list[Path]:
    """The files that hold the model's weights, by its index where it has one."""
    if (directory / INDEX_FILE).exists():
        weight_map = read_json(directory / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelLoadError(f"{directory / INDEX_FILE}: there is no 'weight_map'")
        files = [directory / name for name in sorted(set(weight_map.values()))]
    else:
        single = directory / "model.safetensors"
        files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelLoadError(f"{directory}: there are no .safetensors files")
    for path in files:
        if not path.exists():
            raise ModelLoadError(f"{path}: missing, though {INDEX_FILE} names it; download the model again")
    return files


def read_header(path: Path) -> dict[str, _Tensor]:
    """Where one file's tensors lie. Raises ModelLoadError."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return {
            name: _check_tensor(path, name, entry, data, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path}: truncated or not a safetensors file ({error})") from error


def _check_tensor(path: Path, name: str, entry: dict, data: mmap.mmap, data_start: int) -> _Tensor:
    dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise ModelLoadError(f"{path}: {name} has type {dtype}; supported: {', '.join(ITEM_BYTES)}")
    if stop - start != prod(shape) * ITEM_BYTES[dtype] or start < 0:
        raise ModelLoadError(f"{path}: {name} has {stop - start} bytes, its shape {shape} needs another number")
    if data_start + stop > len(data):
        raise ModelLoadError(
            f"{path}: truncated: {name} ends at byte {data_start + stop}, the file has {len(data)}; download it again"
        )
    return _Tensor(data=data, dtype=dtype, shape=shape, start_bytes=data_start + start)


def _whole(tensor: _Tensor) -> _Part:
    return _Part(tensor=tensor, start=0, stop=tensor.shape[0])


def _cut(part: _Part, rows: Range | None) -> _Part:
    first, last = resolve_range(rows, part.stop - part.start)
    return replace(part, start=part.start + first, stop=part.start + last)


def _to_float32(part: _Part, columns: Range | None = None) -> F32:
    """Rows of a tensor, or some columns of them, in fp32; a view of the file where it holds fp32."""
    tensor = part.tensor
    row_items = prod(tensor.shape[1:])
    count = (part.stop - part.start) * row_items
    start = tensor.start_bytes + part.start * row_items * ITEM_BYTES[tensor.dtype]
    shape = (part.stop - part.start, *tensor.shape[1:])
    kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.dtype]
    values = np.frombuffer(tensor.data, kind, count, start).reshape(shape)
    if columns is not None:
        values = values[:, columns[0] : columns[1]]
    if tensor.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
