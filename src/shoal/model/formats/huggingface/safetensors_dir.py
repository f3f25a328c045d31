"""A Hugging Face directory of safetensors as a WeightSource.

Files are mapped and only their headers are parsed; NumPy has no bfloat16, so the bytes are widened here.
Source: safetensors format, github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.blocks import Form, check_columns, choose_form, form_bytes
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.packing import keeps_values, packing_of
from shoal.model.formats.huggingface.config import config_from_hf
from shoal.model.formats.model_file import (
    WITHOUT_WEIGHTS,
    check_inside,
    map_file,
    parse_json,
    read_json,
    release_pages,
)
from shoal.model.formats.quantization import quantize_rows
from shoal.model.formats.tensor_check import TensorPart, check_tensors
from shoal.model.weights import F32, DenseWeight, Packing, Precision, Range, RawRows, Weight, resolve_range

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""of the types that weights can have here"""
KINDS = {"F32": Kind.F32, "F16": Kind.F16, "BF16": Kind.BF16}
MAX_HEADER_BYTES = 100_000_000
"""Source: the safetensors format's own limit"""
INDEX_FILE = "model.safetensors.index.json"
TOP_NAMES = {"embedding": "embed_tokens.weight", "final_norm": "norm.weight"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "o": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
BIAS_NAMES = {
    f"{name}_bias": LAYER_NAMES[name].replace(".weight", ".bias") for name in ("q", "k", "v", "o", "gate", "up", "down")
}
GEMMA3_NAMES = {
    "post_attn_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}
NORMS = ("attn_norm", "q_norm", "k_norm", "post_attn_norm", "mlp_norm", "post_mlp_norm", "final_norm")
NEEDLESS = re.compile(r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids|masked_bias)")
"""buffers that old files have beside the settings which they are made of"""
OTHER_MODALITIES = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\..*")
"""of Gemma 3, of which the language model is computed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    data: mmap.mmap
    dtype: str
    shape: tuple[int, ...]
    start_bytes: int
    stop_bytes: int


class SafetensorsDir:
    """Weights of a Hugging Face directory, sharded or not, read when asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: a file is missing or broken, or the architecture is not supported, or the tensors are not those
            of the model that config.json describes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = config_from_hf(directory)
        self._tensors: dict[str, _Tensor] = {}
        for path in _weight_files(directory):
            self._add(path)
        self._prefix = self._find_prefix()
        self._head = next((name for name in self._tensors if name.endswith("lm_head.weight")), None)
        self._check()

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix at that precision, or a part of it; `auto` is fp32: the files hold floats. See `WeightSource`."""
        part = _cut(self._locate(name), rows)
        form, resolved = self._form(name, part, precision, columns)
        values_NK = self._values(part, resolved)
        match form:
            case "int8":
                return quantize_rows(values_NK, 8)
            case "int4":
                return quantize_rows(values_NK, 4)
            case _:
                return DenseWeight(values_NK=values_NK)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32; Gemma's norms with the 1 added that its layers add. See `WeightSource`."""
        values = self._values(_cut(self._locate(name), span))
        adds_one = self._config.family == "gemma3" and name.rpartition(".")[2] in NORMS
        return values + np.float32(1) if adds_one else values.copy()

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """What `matrix(...).num_bytes` would be, from the headers alone."""
        part = _cut(self._locate(name), rows)
        form, (first, last) = self._form(name, part, precision, columns)
        return form_bytes(form, Kind.F32, part.stop - part.start, last - first)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold a matrix: floats in the file's own precision. See `WeightSource`."""
        part = _cut(self._locate(name), rows)
        form, resolved = self._form(name, part, precision, columns)
        return packing_of(KINDS[self._tensors[part.tensor].dtype], form, part.stop - part.start, resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> RawRows | None:
        """A matrix as it lies in the file, where its values are kept. See `WeightSource`."""
        part = _cut(self._locate(name), rows)
        form, resolved = self._form(name, part, precision, columns)
        tensor = self._tensors[part.tensor]
        if not keeps_values(KINDS[tensor.dtype], form):
            return None
        num_rows, row_bytes = part.stop - part.start, tensor.shape[-1] * ITEM_BYTES[tensor.dtype]
        start = tensor.start_bytes + part.start * row_bytes
        rows_NB = np.frombuffer(tensor.data, np.uint8, num_rows * row_bytes, start).reshape(num_rows, row_bytes)
        return RawRows(kind=KINDS[tensor.dtype], rows_NB=rows_NB, order_N=None, columns=resolved)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        for data in {id(tensor.data): tensor.data for tensor in self._tensors.values()}.values():
            release_pages(data)

    def _form(self, name: str, part: TensorPart, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
        """What the whole matrix becomes, and the columns of it that are wanted."""
        return form_of_floats(name, self._tensors[part.tensor].shape[-1], precision, columns)

    def _add(self, path: Path) -> None:
        for name, tensor in read_header(path).items():
            if name in self._tensors:
                raise ModelLoadError(f"{path}: the tensor {name!r} is in another file of the model, too")
            self._tensors[name] = tensor

    def _check(self) -> None:
        """Only tensors that the model is computed from have to be of a type and size that can be read."""
        used = check_tensors(
            self._directory,
            self._config,
            shape_of={name: tensor.shape for name, tensor in self._tensors.items()},
            locate=self._locate,
            is_needless=self._is_needless,
        )
        for name in used:
            tensor = self._tensors[name]
            if tensor.dtype not in ITEM_BYTES:
                raise ModelLoadError(
                    f"{self._directory}: {name} has type {tensor.dtype}; supported: {', '.join(ITEM_BYTES)}"
                )
            num_bytes, needed = tensor.stop_bytes - tensor.start_bytes, prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
            if num_bytes != needed:
                raise ModelLoadError(
                    f"{self._directory}: {name} has {num_bytes} bytes, its shape {list(tensor.shape)} needs {needed}"
                )

    def _is_needless(self, tensor: str) -> bool:
        patterns = (NEEDLESS, OTHER_MODALITIES) if self._config.family == "gemma3" else (NEEDLESS,)
        return any(pattern.fullmatch(tensor) for pattern in patterns)

    def _find_prefix(self) -> str:
        """What stands before `embed_tokens` and `layers`; it differs for models taken out of a multimodal one."""
        suffix = TOP_NAMES["embedding"]
        for name in self._tensors:
            if name.endswith(suffix):
                return name.removesuffix(suffix)
        raise ModelLoadError(f"{self._directory}: there is no tensor that ends in {suffix!r}")

    def _locate(self, name: str) -> TensorPart:
        """The tensor, and the rows of it, that hold a matrix or vector of the graph builder's naming.

        A head of its own counts also where the settings tie it to the embedding: transformers ties only what is equal.
        """
        if name == "head":
            return self._whole(self._head or self._prefix + TOP_NAMES["embedding"])
        if name in TOP_NAMES:
            return self._whole(self._prefix + TOP_NAMES[name])
        _, layer, leaf = name.split(".")
        prefix = f"{self._prefix}layers.{layer}."
        own_names = GEMMA3_NAMES if self._config.family == "gemma3" else {}
        return self._fused_part(prefix, leaf) or self._whole(prefix + (LAYER_NAMES | BIAS_NAMES | own_names)[leaf])

    def _fused_part(self, prefix: str, leaf: str) -> TensorPart | None:
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
        return TensorPart(tensor=prefix + fused, start=start, stop=start + num_rows)

    def _whole(self, tensor: str) -> TensorPart:
        if tensor not in self._tensors:
            raise ModelLoadError(f"{self._directory}: there is no tensor {tensor!r}")
        shape = self._tensors[tensor].shape
        return TensorPart(tensor=tensor, start=0, stop=shape[0] if shape else 0)

    def _values(self, part: TensorPart, columns: Range | None = None) -> F32:
        """Rows of a tensor, or some columns of them, in fp32; a view of the file where it holds fp32."""
        tensor = self._tensors[part.tensor]
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


def form_of_floats(name: str, num_columns: int, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
    """What a matrix of so many columns, of which the file holds floats, becomes, and the columns that are wanted."""
    form = choose_form(Kind.F32, precision, num_columns=num_columns, is_vocabulary=name in ("embedding", "head"))
    resolved = resolve_range(columns, num_columns)
    check_columns(form, resolved)
    return form, resolved


def _weight_files(directory: Path) -> list[Path]:
    """The files that hold the model's weights, by its index where it has one."""
    index = directory / INDEX_FILE
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelLoadError(f"{index}: there is no 'weight_map'")
        files = [directory / name for name in sorted({check_inside(name, index) for name in weight_map.values()})]
    else:
        single = directory / "model.safetensors"
        files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelLoadError(f"{directory}: there are no .safetensors files{_way_out(directory)}")
    for path in files:
        if not path.exists():
            raise ModelLoadError(f"{path}: missing, though {INDEX_FILE} names it; download the model again")
    return files


def _way_out(directory: Path) -> str:
    """What to do without weights, or with the older format, a program as much as data, which is not read here."""
    if not any(directory.glob("pytorch_model*.bin")):
        return f"; {WITHOUT_WEIGHTS}"
    return (
        ", only pytorch_model.bin, which can hold programs and is not read; if you trust it, write safetensors with "
        "transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
    )


def read_header(path: Path) -> dict[str, _Tensor]:
    """Where one file's tensors lie. Raises ModelLoadError."""
    data = map_file(path)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise ModelLoadError(f"{path}: truncated or not a safetensors file (a header of {length} bytes)")
    header = parse_json(f"{path}: truncated or not a safetensors file: its header", data[8 : 8 + length])
    tensors = {
        name: _read_entry(path, name, entry, data, 8 + length)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    in_order = sorted(tensors.items(), key=lambda item: item[1].start_bytes)
    for (name, tensor), (other_name, other) in pairwise(in_order):
        if other.start_bytes < tensor.stop_bytes:
            raise ModelLoadError(f"{path}: the tensors {name!r} and {other_name!r} overlap")
    return tensors


def _read_entry(path: Path, name: str, entry: Any, data: mmap.mmap, data_start: int) -> _Tensor:
    """One tensor, of any type: files hold some that no model is computed from."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise ModelLoadError(f"{path}: the header is damaged: {name!r} has no type, shape and place")
    start, stop = offsets
    if start > stop:
        raise ModelLoadError(f"{path}: the header is damaged: {name!r} ends before it begins")
    if data_start + stop > len(data):
        raise ModelLoadError(
            f"{path}: truncated: {name} ends at byte {data_start + stop}, the file has {len(data)}; download it again"
        )
    return _Tensor(
        data=data, dtype=dtype, shape=tuple(shape), start_bytes=data_start + start, stop_bytes=data_start + stop
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _cut(part: TensorPart, rows: Range | None) -> TensorPart:
    first, last = resolve_range(rows, part.stop - part.start)
    return replace(part, start=part.start + first, stop=part.start + last)
