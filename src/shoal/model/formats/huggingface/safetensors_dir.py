"""A Hugging Face directory of safetensors as a WeightSource.

Files are mapped and only their headers are parsed; NumPy has no bfloat16, so the bytes are widened here.
Source: safetensors format, github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import mmap
import re
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrays import F32, U8
from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.blocks import (
    FLOATS,
    Form,
    check_columns,
    choose_form,
    columns_to_weight,
    form_bytes,
    to_dense,
)
from shoal.model.formats.gguf.kinds import BLOCK_SIZES, Kind
from shoal.model.formats.gguf.packing import keeps_values, packing_of
from shoal.model.formats.huggingface.config import family_from_hf
from shoal.model.formats.huggingface.mxfp4 import (
    Tensor,
    blocks_in_place_of,
    blocks_of,
    check_mxfp4,
    is_mxfp4,
    mxfp4_rows,
    mxfp4_shape,
    scales_of,
)
from shoal.model.formats.model_file import (
    WITHOUT_WEIGHTS,
    check_inside,
    map_file,
    parse_json,
    read_json,
    release_pages,
)
from shoal.model.formats.quantization import quantize_rows
from shoal.model.formats.tensor_check import check_tensors
from shoal.model.formats.tensor_part import TensorPart, rotating_heads
from shoal.model.weights import (
    DenseWeight,
    Packing,
    Precision,
    Range,
    RawRows,
    Weight,
    own_precision,
    resolve_range,
)

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""of the types that weights can have here"""
KINDS = {"F32": Kind.F32, "F16": Kind.F16, "BF16": Kind.BF16}
MAX_HEADER_BYTES = 100_000_000
"""Source: the safetensors format's own limit"""
INDEX_FILE = "model.safetensors.index.json"
NORMS = ("attn_norm", "q_norm", "k_norm", "post_attn_norm", "mlp_norm", "post_mlp_norm", "final_norm")
_FLAT = ("q_norm.weight", "k_norm.weight", "e_score_correction_bias")
"""vectors that files have as matrices: of a row for each head, or of one row"""
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"experts\.(\d+)\.")


class SafetensorsDir:
    """Weights of a Hugging Face directory, sharded or not, read when asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: a file is missing or broken, or the architecture is not supported, or the tensors are not those
            of the model that config.json describes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._family, self._config = family_from_hf(directory)
        self._tensors: dict[str, Tensor] = {}
        for path in _weight_files(directory):
            self._add(path)
        self._prefix = self._find_prefix()
        self._head = next((name for name in self._tensors if name.endswith(self._family.head)), None)
        self._check()

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix at that precision, or a part of it; `auto` is fp32 where the files hold floats. See
        `WeightSource`."""
        part = self._locate(name).cut(rows)
        kind, form, resolved = self._form(name, part, precision, columns)
        to_weight = floats_to_weight if kind in FLOATS else columns_to_weight
        return to_weight(self._rows(part), kind, form, resolved)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32; a norm with the 1 added that the family's layers add. See `WeightSource`."""
        part = self._locate(name).cut(span)
        tensor = self._tensors[part.tensor]
        items = np.frombuffer(tensor.data, np.uint8, tensor.num_bytes, tensor.start_bytes)
        values = to_dense(items.reshape(1, -1), KINDS[tensor.dtype])[0, part.numbers(self._config.rope.rotary_dim)]
        adds_one = self._family.norms_add_one and name.rpartition(".")[2] in NORMS
        return values + np.float32(1) if adds_one else values.copy()

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """What `matrix(...).num_bytes` would be, from the headers alone."""
        part = self._locate(name).cut(rows)
        kind, form, (first, last) = self._form(name, part, precision, columns)
        return form_bytes(form, kind, part.num_rows, last - first)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold a matrix: floats in the file's own precision. See `WeightSource`."""
        part = self._locate(name).cut(rows)
        kind, form, resolved = self._form(name, part, precision, columns)
        return packing_of(kind, form, part.num_rows, resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> RawRows | None:
        """A matrix as it lies in the file, where its values are kept. See `WeightSource`."""
        part = self._locate(name).cut(rows)
        kind, form, resolved = self._form(name, part, precision, columns)
        if not keeps_values(kind, form):
            return None
        return RawRows(kind=kind, rows_NB=self._rows(part), order_N=None, columns=resolved)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        for data in {id(tensor.data): tensor.data for tensor in self._tensors.values()}.values():
            release_pages(data)

    def _form(
        self, name: str, part: TensorPart, precision: Precision, columns: Range | None
    ) -> tuple[Kind, Form, Range]:
        """How the file holds a matrix, what the whole of it becomes, and the columns of it that are wanted."""
        shape = self._shape(part.tensor)
        kind = Kind.MXFP4 if self._is_mxfp4(part.tensor) else KINDS[self._tensors[part.tensor].dtype]
        as_floats = Kind.F32 if kind in FLOATS else kind
        form, resolved = form_of(as_floats, name, shape[-1], precision, columns)
        return kind, form, resolved

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
            shape_of={name: self._shape(name) for name in self._tensors},
            locate=self._locate,
            is_needless=self._is_needless,
        )
        for name in used:
            if self._is_mxfp4(name):
                check_mxfp4(self._directory, name, self._tensors[name], self._tensors.get(scales_of(name)))
            else:
                self._check_floats(name)

    def _check_floats(self, name: str) -> None:
        tensor = self._tensors[name]
        if tensor.dtype not in ITEM_BYTES:
            raise ModelLoadError(
                f"{self._directory}: {name} has type {tensor.dtype}; supported: {', '.join(ITEM_BYTES)}"
            )
        needed = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        if tensor.num_bytes != needed:
            raise ModelLoadError(
                f"{self._directory}: {name} has {tensor.num_bytes} bytes, its shape {list(tensor.shape)} needs {needed}"
            )

    def _is_needless(self, tensor: str) -> bool:
        """Scales are checked and read with their blocks."""
        has_blocks = self._family.stacks_experts and blocks_of(tensor) in self._tensors
        later = _LAYER.match(tensor) if self._family.has_draft_layers else None
        is_draft = later is not None and int(later[1]) >= self._config.num_layers
        return has_blocks or is_draft or self._family.needless.fullmatch(tensor) is not None

    def _find_prefix(self) -> str:
        """What stands before `embed_tokens` and `layers`; it differs for models taken out of a multimodal one."""
        suffix = self._family.top["embedding"]
        for name in self._tensors:
            if name.endswith(suffix):
                return name.removesuffix(suffix)
        raise ModelLoadError(f"{self._directory}: there is no tensor that ends in {suffix!r}")

    def _locate(self, name: str) -> TensorPart:
        """The tensor, and the rows of it, that hold a matrix or vector of the graph builder's naming.

        A head of its own counts also where the settings tie it to the embedding: transformers ties only what is equal.
        """
        if name == "head":
            return self._whole(self._head or self._prefix + self._family.top["embedding"])
        if name == "head_bias":
            return self._whole((self._head or self._family.head).removesuffix("weight") + "bias")
        if name in self._family.top:
            return self._whole(self._prefix + self._family.top[name])
        _, layer, leaf = name.split(".", 2)
        prefix = f"{self._prefix}{self._family.top['layers']}{layer}."
        if expert := _EXPERT.match(leaf):
            return self._expert_part(prefix, leaf[expert.end() :], int(expert[1]))
        return self._fused_part(prefix, leaf) or self._whole(self._layer_tensor(prefix, leaf), leaf)

    def _layer_tensor(self, prefix: str, leaf: str) -> str:
        tensor, other = prefix + self._family.names.get(leaf, leaf), self._family.other_names.get(leaf)
        return tensor if other is None or tensor in self._tensors else prefix + other

    def _expert_part(self, prefix: str, leaf: str, expert: int) -> TensorPart:
        """Of one expert, which may lie with all others of the layer: rows of gate and up are then in turn."""
        tensor = prefix + self._family.names[f"experts.*.{leaf}"].replace("*", str(expert))
        experts = self._config.experts
        if not self._family.stacks_experts or experts is None:
            return self._whole(tensor)
        tensor = blocks_in_place_of(tensor, self._tensors)
        if tensor not in self._tensors:
            return self._whole(tensor)
        is_in_turn = leaf.startswith(("gate", "up"))
        num_rows = 2 * experts.columns if is_in_turn else self._config.hidden_size
        return TensorPart(
            tensor=tensor,
            start=expert * num_rows + leaf.startswith("up"),
            stop=(expert + 1) * num_rows,
            step=2 if is_in_turn else 1,
            stack=experts.num_experts,
        )

    def _fused_part(self, prefix: str, leaf: str) -> TensorPart | None:
        """Rows of fused tensors: gate above up, and q, k, v under each other or in turn for each key head."""
        part = leaf.removesuffix("_bias")
        name = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}.get(part)
        fused = self._family.names.get(f"{name}{leaf.removeprefix(part)}")
        if fused is None or prefix + fused not in self._tensors:
            return None
        config, tensor = self._config, prefix + fused
        if name == "gate_up":
            start = config.intermediate_size if part == "up" else 0
            return TensorPart(tensor=tensor, start=start, stop=start + config.intermediate_size)
        heads = self._interleaved_heads(leaf)
        group = config.num_heads // config.num_kv_heads if self._family.groups_qkv else config.num_heads
        per_group = 1 if self._family.groups_qkv else config.num_kv_heads
        first, count = {"q": (0, group), "k": (group, per_group), "v": (group + per_group, per_group)}[part]
        stride, total = group + 2 * per_group, config.num_heads + 2 * config.num_kv_heads
        if stride == total:
            start, stop = first * config.head_dim, (first + count) * config.head_dim
            return TensorPart(tensor=tensor, start=start, stop=stop, heads=heads)
        dim = config.head_dim
        return TensorPart(
            tensor=tensor, start=first * dim, stop=total * dim, step=stride * dim, run=count * dim, heads=heads
        )

    def _whole(self, tensor: str, leaf: str = "") -> TensorPart:
        if tensor not in self._tensors:
            raise ModelLoadError(f"{self._directory}: there is no tensor {tensor!r}")
        shape = self._shape(tensor)
        return TensorPart(tensor=tensor, start=0, stop=shape[0] if shape else 0, heads=self._interleaved_heads(leaf))

    def _interleaved_heads(self, leaf: str) -> int:
        """Of a matrix or vector whose rows are in interleaved rotary order."""
        if not self._family.is_interleaved:
            return 0
        return rotating_heads(self._config, leaf)

    def _is_mxfp4(self, tensor: str) -> bool:
        return self._family.stacks_experts and is_mxfp4(tensor)

    def _is_transposed(self, tensor: str) -> bool:
        if self._family.is_transposed:
            return len(self._tensors[tensor].shape) == 2 and self._family.top["layers"] in tensor
        return self._family.stacks_experts and tensor.endswith(("experts.gate_up_proj", "experts.down_proj"))

    def _shape(self, name: str) -> tuple[int, ...]:
        """Of the matrices in a tensor: outputs before inputs, and weights in the place of blocks."""
        shape = self._tensors[name].shape
        if self._is_mxfp4(name):
            return mxfp4_shape(shape)
        if self._is_transposed(name):
            return (*shape[:-2], shape[-1], shape[-2]) if len(shape) >= 2 else shape
        return (prod(shape),) if name.endswith(_FLAT) else shape

    def _rows(self, part: TensorPart) -> U8:
        """The bytes [N, row_bytes] of some rows; a view of the file where they lie there so."""
        tensor = self._tensors[part.tensor]
        if self._is_mxfp4(part.tensor):
            return mxfp4_rows(tensor, self._tensors[scales_of(part.tensor)], slice(part.start, part.stop, part.step))
        item_bytes = ITEM_BYTES[tensor.dtype]
        items = np.frombuffer(tensor.data, f"u{item_bytes}", prod(tensor.shape), tensor.start_bytes)
        numbers = part.numbers(self._config.rope.rotary_dim)
        if self._is_transposed(part.tensor) and part.stack == 0:
            rows_NK = items.reshape(tensor.shape).T[numbers]
        elif self._is_transposed(part.tensor):
            num_rows = tensor.shape[2]
            matrix_KN = items.reshape(tensor.shape)[part.start // num_rows]
            first = part.start % num_rows
            rows_NK = matrix_KN[:, first : first + part.num_rows * part.step : part.step].T
        else:
            rows_NK = items.reshape(-1, tensor.shape[-1])[numbers]
        return np.ascontiguousarray(rows_NK).view(np.uint8)


def floats_to_weight(rows_NB: U8, kind: Kind, form: Form, columns: Range) -> Weight:
    """Some columns of rows of floats; only these are widened. A view of the rows where they are fp32 and stay so."""
    item_bytes = BLOCK_SIZES[kind][1]
    values_NK = to_dense(rows_NB[:, columns[0] * item_bytes : columns[1] * item_bytes], kind)
    match form:
        case "int8":
            return quantize_rows(values_NK, 8)
        case "int4":
            return quantize_rows(values_NK, 4)
        case _:
            return DenseWeight(values_NK=values_NK)


def form_of(kind: Kind, name: str, num_columns: int, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
    """What a matrix of that kind and so many columns becomes, and the columns that are wanted."""
    form = choose_form(
        kind, own_precision(name, precision), num_columns=num_columns, is_vocabulary=name in ("embedding", "head")
    )
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


def read_header(path: Path) -> dict[str, Tensor]:
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


def _read_entry(path: Path, name: str, entry: Any, data: mmap.mmap, data_start: int) -> Tensor:
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
    return Tensor(
        data=data, dtype=dtype, shape=tuple(shape), start_bytes=data_start + start, stop_bytes=data_start + stop
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
