"""A Hugging Face directory of safetensors as a WeightSource.

Files are mapped and only their headers are parsed; NumPy has no bfloat16, so the bytes are widened here.
Source: safetensors format, github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from shoal.arrays import F32, I64, U8
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
from shoal.model.formats.huggingface.config import family_from_hf, quantization_from_hf
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.mxfp4 import (
    blocks_in_place_of,
    blocks_of,
    check_mxfp4,
    is_mxfp4,
    mxfp4_rows,
    mxfp4_shape,
    scales_of,
)
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.quantized.table import ACTIVATION_SCALES, find_coded
from shoal.model.formats.huggingface.tensor_files import Tensor, read_header, weight_files
from shoal.model.formats.model_file import release_pages
from shoal.model.formats.quantization import quantize_rows
from shoal.model.formats.tensor_check import check_tensors
from shoal.model.formats.tensor_part import Naming, TensorPart, rotating_heads
from shoal.model.weights import (
    VOCABULARY,
    DenseWeight,
    KeptRows,
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
NORMS = ("attn_norm", "q_norm", "k_norm", "post_attn_norm", "mlp_norm", "post_mlp_norm", "final_norm")
_FLAT = (
    *("q_norm.weight", "k_norm.weight", "e_score_correction_bias"),
    *("modality_router.weight", "prediction_coefs.weight", "correction_coefs.weight"),
)
"""vectors that files have as matrices: of a row for each head or stream, or of one row"""
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_KEYS = re.compile(r".*layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.weight")
"""what a layer that attends over another's keys leaves unread"""
_FUSED = {
    **dict.fromkeys(("q", "k", "v"), "qkv"),
    **dict.fromkeys(("gate", "up"), "gate_up"),
    **dict.fromkeys(("shared_gate", "shared_up"), "shared_gate_up"),
}
"""the name of the tensor that several may lie in"""
_EXPERT = re.compile(r"experts\.(\d+)\.")
_HEAD = re.compile(r"heads\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model's settings and tensors, from a file of another form."""

    family: Family
    config: DecoderConfig
    tensors: Mapping[str, Tensor]


class SafetensorsDir:
    """Weights of a Hugging Face directory, sharded or not, read when asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: a file is missing or broken, or the architecture is not supported, or the tensors are not those
            of the model that config.json describes.
    """

    naming: Naming = "huggingface"

    def __init__(self, directory: Path, opened: Opened | None = None) -> None:
        """`opened`: what the folder holds, where that was found out in another way."""
        self._directory = directory
        self._family, self._config = (opened.family, opened.config) if opened else family_from_hf(directory)
        self._tensors: dict[str, Tensor] = dict(opened.tensors) if opened else {}
        for path in () if opened else weight_files(directory):
            self._add(path)
        quantization = {} if opened else quantization_from_hf(directory)
        self._coded: Mapping[str, CodedMatrix] = (
            find_coded(directory, quantization, self._tensors) if quantization else {}
        )
        self._prefix = self._find_prefix()
        self._head = next((name for name in self._names() if name.endswith(self._family.head)), None)
        self._check()

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix at that precision, or a part of it; `auto` is fp32 where the files hold floats. See
        `WeightSource`."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.weight(form, self._numbers(part), resolved)
        kind, form, resolved = self._form(name, part, precision, columns)
        to_weight = floats_to_weight if kind in FLOATS else columns_to_weight
        return to_weight(self._rows(part), kind, form, resolved)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32; a norm with the 1 added that the family's layers add. See `WeightSource`."""
        part = self.locate(name).cut(span)
        values = self._floats_of(part.tensor)
        shape = self._tensors[part.tensor].shape
        if len(shape) == 3:  # of a convolution
            values = values.reshape(shape[0], -1)
        values = values[self._numbers(part)].reshape(-1)
        if part.tensor.endswith("A_log"):  # in fp64, whose exponential all machines round alike to fp32
            return -np.exp(values.astype(np.float64)).astype(np.float32)
        adds_one = self._family.norms_add_one and name.rpartition(".")[2] in NORMS
        return values + np.float32(1) if adds_one else values.copy()

    def _floats_of(self, tensor: str) -> F32:
        """All items of a tensor of floats."""
        found = self._tensors[tensor]
        return to_dense(found.items("u1").reshape(1, -1), KINDS[found.dtype])[0]

    def _numbers(self, part: TensorPart) -> slice | I64:
        """The part's rows in its tensor."""
        return part.numbers(self._config.rope.rotary_dim)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """What `matrix(...).num_bytes` would be, from the headers alone."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.num_bytes(form, part.num_rows, resolved)
        kind, form, (first, last) = self._form(name, part, precision, columns)
        return form_bytes(form, kind, part.num_rows, last - first)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold a matrix: floats in the file's own precision. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.packing(form, part.num_rows, resolved)
        kind, form, resolved = self._form(name, part, precision, columns)
        return packing_of(kind, form, part.num_rows, resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """A matrix as it lies in the file, where its values are kept. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.kept(form, self._numbers(part), resolved)
        kind, form, resolved = self._form(name, part, precision, columns)
        if not keeps_values(kind, form):
            return None
        return RawRows(kind=kind, rows_NB=self._rows(part), order_N=None, columns=resolved)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        for data in {id(tensor.data): tensor.data for tensor in self._tensors.values()}.values():
            release_pages(data)

    def _coded_of(self, part: TensorPart) -> CodedMatrix | None:
        """A quantized matrix, unless it is turned: its scales would lie across it then, and it counts as floats."""
        return None if part.turned else self._coded.get(part.tensor)

    def _form(
        self, name: str, part: TensorPart, precision: Precision, columns: Range | None
    ) -> tuple[Kind, Form, Range]:
        """How the file holds a matrix, what the whole of it becomes, and the columns of it that are wanted."""
        shape = self._shape(part.tensor)
        if part.tensor in self._coded:
            kind = Kind.F32
        else:
            kind = Kind.MXFP4 if self._is_mxfp4(part.tensor) else KINDS[self._tensors[part.tensor].dtype]
        as_floats = Kind.F32 if kind in FLOATS else kind
        num_columns = part.num_inputs if part.turned else shape[-1]
        form, resolved = form_of(as_floats, name, num_columns, precision, columns)
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
            shape_of={name: self._shape(name) for name in self._names()},
            locate=self.locate,
            is_needless=self._is_needless,
        )
        for name in used:
            if name in self._coded:
                continue
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
        keys = _KEYS.fullmatch(tensor)
        is_unread = keys is not None and self._config.kv_source(int(keys[1])) != int(keys[1])
        is_needless = has_blocks or is_draft or is_unread or self._family.needless.fullmatch(tensor) is not None
        return is_needless or (bool(self._coded) and self._is_of_coded(tensor))

    def _is_of_coded(self, tensor: str) -> bool:
        """Scales of activations, and biases of zeros, which GPTQ's tools write for layers that have none."""
        if ACTIVATION_SCALES.fullmatch(tensor):
            return True
        stem, _, leaf = tensor.rpartition(".")
        if leaf != "bias" or f"{stem}.weight" not in self._coded or self._tensors[tensor].dtype not in ITEM_BYTES:
            return False
        return not np.any(self._floats_of(tensor))

    def _names(self) -> Iterable[str]:
        """Of all matrices and vectors: those that are quantized have one name for all of their tensors."""
        parts = frozenset[str]().union(*(matrix.tensors for matrix in self._coded.values()))
        return [*self._coded, *(name for name in self._tensors if name not in parts)]

    def _has(self, tensor: str) -> bool:
        return tensor in self._tensors or tensor in self._coded

    def _find_prefix(self) -> str:
        """What stands before `embed_tokens` and `layers`; it differs for models taken out of a multimodal one."""
        suffix = self._family.top["embedding"]
        for name in self._names():
            if name.endswith(suffix):
                return name.removesuffix(suffix)
        raise ModelLoadError(f"{self._directory}: there is no tensor that ends in {suffix!r}")

    def locate(self, name: str) -> TensorPart:
        """The tensor, and the rows of it, that hold a matrix or vector of the graph builder's naming.

        A head of its own counts also where the settings tie it to the embedding: transformers ties only what is equal.
        """
        if name == "head":
            return self._whole(self._head or self._prefix + self._family.top["embedding"])
        if name == "head_bias":
            return self._whole((self._head or self._family.head).removesuffix("weight") + "bias")
        if name in self._family.top:
            return self._whole(self._prefix + self._family.top[name])
        part, _, rest = name.partition("layers.")
        layer, leaf = rest.split(".", 1)
        prefix = f"{self._prefix}{self._family.top[f'{part}layers']}{layer}."
        if expert := _EXPERT.match(leaf):
            return self._expert_part(prefix, leaf[expert.end() :], int(expert[1]))
        if head := _HEAD.match(leaf):
            return self._head_part(prefix, leaf[head.end() :], int(head[1]))
        return self._fused_part(prefix, leaf) or self._whole(self._layer_tensor(prefix, leaf), leaf)

    def _layer_tensor(self, prefix: str, leaf: str) -> str:
        tensor, other = prefix + self._family.names.get(leaf, leaf), self._family.other_names.get(leaf)
        return tensor if other is None or self._has(tensor) else prefix + other

    def _expert_part(self, prefix: str, leaf: str, expert: int) -> TensorPart:
        """Of one expert, which may lie with all others of the layer: rows of gate and up are then in turn."""
        tensor = prefix + self._family.names[f"experts.*.{leaf}"].replace("*", str(expert))
        experts = self._config.experts
        if not self._family.stacks_experts or experts is None:
            return self._whole(tensor)
        tensor = blocks_in_place_of(tensor, self._tensors)
        if tensor not in self._tensors:
            others = self._family.other_names.get(f"experts.*.{leaf}")
            return self._whole(tensor if others is None else prefix + others.replace("*", str(expert)))
        is_joined = leaf.startswith(("gate", "up"))
        num_rows = 2 * experts.columns if is_joined else self._config.hidden_size
        if is_joined and self._family.halves_gate_up:
            start = expert * num_rows + (experts.columns if leaf.startswith("up") else 0)
            return TensorPart(tensor=tensor, start=start, stop=start + experts.columns, stack=experts.num_experts)
        return TensorPart(
            tensor=tensor,
            start=expert * num_rows + leaf.startswith("up"),
            stop=(expert + 1) * num_rows,
            step=2 if is_joined else 1,
            stack=experts.num_experts,
        )

    def _head_part(self, prefix: str, leaf: str, head: int) -> TensorPart:
        """How a head goes into the latent space and out of it: one matrix holds both, head by head."""
        part, latent = self._whole(prefix + self._family.names["heads.*"]), self._config.latent
        assert latent is not None
        start = head * (latent.plain_dim + latent.value_dim)
        middle = start + latent.plain_dim
        if leaf == "k_up":
            return replace(part, start=start, stop=middle, turned=latent.latent_dim)
        return replace(part, start=middle, stop=middle + latent.value_dim)

    def _fused_part(self, prefix: str, leaf: str) -> TensorPart | None:
        """Rows of fused tensors: gate above up, q, k, v under each other or in turn for each key head, or the family's
        own ways."""
        own = self._family.part(self._config, leaf)
        if own is not None:
            self._whole(prefix + own.tensor)
            return replace(own, tensor=prefix + own.tensor)
        part = leaf.removesuffix("_bias")
        name = _FUSED.get(part)
        fused = self._family.names.get(f"{name}{leaf.removeprefix(part)}")
        if fused is None or not self._has(prefix + fused):
            return None
        config, tensor = self._config, prefix + fused
        if part not in ("q", "k", "v"):
            is_shared = config.experts is not None and part.startswith("shared_")
            columns = config.experts.shared_columns if is_shared and config.experts else config.intermediate_size
            start = columns if part.endswith("up") else 0
            return TensorPart(tensor=tensor, start=start, stop=start + columns)
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
        if not self._has(tensor):
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
        is_stacked = self._family.stacks_experts and self._family.turns_experts
        stack, _, leaf = tensor.rpartition("experts.")
        return is_stacked and leaf in ("gate_up_proj", "down_proj") and not self._is_upright(f"{stack}experts.")

    def _is_upright(self, stack: str) -> bool:
        """Whether a layer's experts have outputs before inputs although their family's published files turn them.
        Source: transformers 5, conversion_mapping.py: it turns experts while it loads, unless their shape fits."""
        experts, gate_up = self._config.experts, self._tensors.get(f"{stack}gate_up_proj")
        if experts is None or gate_up is None or 2 * experts.columns == self._config.hidden_size:
            return False
        return gate_up.shape[1:] == (2 * experts.columns, self._config.hidden_size)

    def _shape(self, name: str) -> tuple[int, ...]:
        """Of the matrices in a tensor: outputs before inputs, and weights in the place of blocks."""
        if coded := self._coded.get(name):
            return coded.shape
        shape = self._tensors[name].shape
        if self._is_mxfp4(name):
            return mxfp4_shape(shape)
        if self._is_transposed(name):
            return (*shape[:-2], shape[-1], shape[-2]) if len(shape) >= 2 else shape
        return (prod(shape),) if name.endswith(_FLAT) else shape

    def _rows(self, part: TensorPart) -> U8:
        """The bytes [N, row_bytes] of some rows; a view of the file where they lie there so."""
        if coded := self._coded.get(part.tensor):
            values = coded.weight("dense", slice(part.start, part.stop), (0, coded.shape[1]))
            assert isinstance(values, DenseWeight)
            return np.ascontiguousarray(values.values_NK.T).view(np.uint8)
        tensor = self._tensors[part.tensor]
        if self._is_mxfp4(part.tensor):
            return mxfp4_rows(tensor, self._tensors[scales_of(part.tensor)], slice(part.start, part.stop, part.step))
        item_bytes = ITEM_BYTES[tensor.dtype]
        items = np.frombuffer(tensor.data, f"u{item_bytes}", prod(tensor.shape), tensor.start_bytes)
        numbers = part.numbers(self._config.rope.rotary_dim)
        if part.turned:
            rows_NK = items.reshape(tensor.shape)[part.start : part.stop].T
        elif self._is_transposed(part.tensor) and part.stack == 0:
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


def coded_form(coded: CodedMatrix, name: str, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
    """What a quantized matrix becomes, and the columns that are wanted."""
    form = coded.form(own_precision(name, precision), is_vocabulary=name in VOCABULARY)
    resolved = resolve_range(columns, coded.shape[1])
    coded.check_columns(form, resolved)
    return form, resolved


def form_of(kind: Kind, name: str, num_columns: int, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
    """What a matrix of that kind and so many columns becomes, and the columns that are wanted."""
    form = choose_form(kind, own_precision(name, precision), num_columns=num_columns, is_vocabulary=name in VOCABULARY)
    resolved = resolve_range(columns, num_columns)
    check_columns(form, resolved)
    return form, resolved
