"""Weights as the graph builder sees them, independent of the file's format.

Shapes: N output features, K input features, G = K / BLOCK quantization blocks along K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

import numpy as np

from shoal.arrays import F32, I32, U8
from shoal.errors import ConfigError
from shoal.model.decoder_config import DecoderConfig
from shoal.protocol.stage_config import Precision

BLOCK = 32
"""Weights that share one scale. Source: Q4_0, Q4_1, Q8_0 and the sub-blocks of Q4_K, GGUF specification."""

Range = tuple[int, int]
"""[first, last) rows, columns or items"""
VOCABULARY = ("embedding", "head", "layer_embedding")
"""Matrices with a row for each token. 4 bits would cost them too much accuracy, so they are held in 8 bits instead."""
ROUTERS = ("router", "shared_router", "delta_write", "delta_decay")
"""Matrices that are never quantized. They are small, and they decide which experts a token goes to, or how much of a
state remains."""


def parse_precision(text: str) -> Precision:
    """The precision that a user's text names. Raises ConfigError."""
    if text not in get_args(Precision):
        raise ConfigError(f"unknown precision {text!r}: use one of {', '.join(get_args(Precision))}")
    return cast(Precision, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseWeight:
    """An fp32 matrix whose rows are output features."""

    values_NK: F32

    @property
    def shape(self) -> tuple[int, int]:
        return self.values_NK.shape[0], self.values_NK.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.values_NK.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeight:
    """A block-quantized matrix: w = (q - 2**(bits-1)) * scale + offset, with one scale and offset for BLOCK inputs.

    Codes are packed as in ONNX Runtime's MatMulNBits: with 4 bits, byte j of a block has q[2j] in its low and q[2j+1]
    in its high nibble.
    """

    bits: Literal[4, 8]
    q_NGB: U8
    """[N, G, BLOCK * bits / 8]"""
    scales_NG: F32
    offsets_NG: F32 | None = None
    """None: symmetric, without offsets"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.q_NGB.shape[0], self.q_NGB.shape[1] * BLOCK

    @property
    def num_bytes(self) -> int:
        offsets = self.offsets_NG.nbytes if self.offsets_NG is not None else 0
        return self.q_NGB.nbytes + self.scales_NG.nbytes + offsets


Weight = DenseWeight | BlockWeight


NumberKind = Literal["float", "half", "bfloat"]
"""Number format of scales: fp32, fp16 or bfloat16, whichever holds all of them exactly."""
CodeKind = Literal["int4", "int8", "e4m3", "nf4"]
"""Meaning of a code: a whole number, counted from a zero point; a float of 8 bits (OCP 8-bit Floating Point, section
5); one of the 16 values of NF4 (QLoRA, arXiv 2305.14314)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockKind:
    """What the packed form of a `BlockWeight` depends on besides its size."""

    bits: Literal[4, 8]
    scales: NumberKind = "float"
    offsets: NumberKind | Literal["zero_points"] | None = None
    """`zero_points`: every offset is a whole multiple of its scale, which is stored in a byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedKind:
    """What the packed form of `CodedRows` depends on besides its size."""

    codes: CodeKind
    scales: NumberKind
    part_inputs: int
    """Inputs that share a scale; if `is_grouped`, the number of scales of a row."""
    has_zero_points: bool = False
    is_grouped: bool = False
    """Whether every input names its scale, as only whole numbers may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRows:
    """Rows of a matrix as codes: a weight is the value of its code times its scale, rounded once.

    Shapes: N rows, K inputs, P scales a row.
    """

    kind: CodedKind
    codes_NK: U8
    """Codes, one a byte; whole numbers are unsigned."""
    scales_NP: F32
    zero_points_NP: U8 | None = None
    """Zero points of whole numbers; None: the middle, 8 or 128."""
    groups_K: I32 | None = None
    """Number of each input's scale, where inputs name their scales."""
    first_input: int = 0
    """Inputs of the first group that lie before the first one here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How the native kernels hold a matrix or a part of it, known from the file's header alone."""

    kind: int | BlockKind | CodedKind
    """The GGML type whose values are kept (F32 for a `DenseWeight`), or the kind of blocks or codes."""
    shape: tuple[int, int]
    first_column: int = 0
    """First column of the part in the file's rows: a part may begin inside a super-block of 256, or between inputs that
    share a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """A matrix or a part of it as it lies in the file, from which it is packed."""

    kind: int
    """GGML type"""
    rows_NB: U8
    """Whole rows, a view of the file."""
    order_N: I32 | None
    """For each output, its row in the file; None: the file's order."""
    columns: Range


KeptRows = RawRows | CodedRows | BlockWeight


class WeightSource(Protocol):
    """An opened model file. It reads only what is asked for, when it is asked for, and keeps nothing.

    Names: `embedding`, `positions`, `final_norm`, `final_norm_bias`, `head` (the `embedding` where tied), `head_bias`
    and, for layer i, `layers.i.` + `attn_norm attn_norm_bias q k v q_bias k_bias v_bias q_norm k_norm sinks o o_bias
    post_attn_norm mlp_norm mlp_norm_bias gate gate_bias up up_bias down down_bias post_mlp_norm`; in a layer with
    experts `router router_bias selection_bias shared_gate shared_up shared_down shared_router` and, for expert e,
    `experts.e.` + the names of an MLP. Rows of q and k are in half-split (NeoX) rotary order, whatever the file's order
    is.
    """

    @property
    def config(self) -> DecoderConfig: ...

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix, or a part of it, at that precision; `auto` keeps a quantized file's own blocks.

        A part equals the same part of the whole matrix exactly, and only what it needs is read from the file.

        Args:
            name: see the class.
            precision: of the whole matrix, so that all of its parts have one form.
            rows: None: all. Whole heads for q and k.
            columns: None: all. Multiples of BLOCK if the matrix is quantized.

        Raises:
            ModelLoadError: the file has no such matrix.
            ValueError: the matrix does not have these rows or columns, or they cut a head or a block.
        """
        ...

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias, or some items of it, in fp32 and ready to multiply (Gemma's +1 is already added). For
        a convolution: all taps, channel by channel, or those of some channels.

        Raises:
            ModelLoadError: the file has no such vector.
            ValueError: the vector does not have these items.
        """
        ...

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """The value that `matrix(...).num_bytes` would have, from the header alone."""
        ...

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold this matrix, from the header alone. Raises as `matrix` does."""
        ...

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """The matrix as it lies in the file, if its `packing` keeps the file's values; None: `matrix(...)` must be
        packed."""
        ...

    def release_pages(self) -> None:
        """Release the memory of the file's pages that were read. They are read again when they are used."""
        ...


def own_precision(name: str, precision: Precision) -> Precision:
    """The precision of a matrix in a model at `precision`."""
    return "fp32" if name.rpartition(".")[2] in ROUTERS else precision


def resolve_range(given: Range | None, length: int) -> Range:
    """`given`, or [0, length) for None. Raises ValueError if `given` is not within `length`."""
    first, last = (0, length) if given is None else given
    if not 0 <= first <= last <= length:
        raise ValueError(f"[{first}, {last}) is not within {length}")
    return first, last


def in_own_memory(weight: Weight) -> Weight:
    """A copy of the weight if it is a view of a mapped file, otherwise the weight itself. Whoever changes or truncates
    that file while the weight is used would change its values or end the process. Blocks are never views: no file
    stores them in this form."""
    match weight:
        case DenseWeight():
            return DenseWeight(values_NK=np.require(weight.values_NK, requirements="W"))  # files are mapped read-only
        case BlockWeight():
            return weight


def cut_columns(weight: Weight, first: int, last: int) -> Weight:
    """Columns [first, last) of a weight, as views. Raises ValueError if they cut a quantization block."""
    match weight:
        case DenseWeight():
            return DenseWeight(values_NK=weight.values_NK[:, first:last])
        case BlockWeight():
            if first % BLOCK or last % BLOCK:
                raise ValueError(f"columns [{first}, {last}) cut a quantization block of {BLOCK}")
            blocks = slice(first // BLOCK, last // BLOCK)
            offsets_NG = weight.offsets_NG
            return BlockWeight(
                bits=weight.bits,
                q_NGB=weight.q_NGB[:, blocks],
                scales_NG=weight.scales_NG[:, blocks],
                offsets_NG=None if offsets_NG is None else offsets_NG[:, blocks],
            )


def concatenate_rows(weights: Sequence[Weight]) -> Weight | None:
    """One matrix with the rows of all weights; None if their formats differ."""
    first = weights[0]
    if all(isinstance(w, DenseWeight) for w in weights):
        return DenseWeight(values_NK=np.concatenate([w.values_NK for w in weights]))  # type: ignore[union-attr]
    if not isinstance(first, BlockWeight):
        return None
    blocks = [w for w in weights if isinstance(w, BlockWeight) and w.bits == first.bits]
    if len(blocks) != len(weights) or len({w.offsets_NG is None for w in blocks}) != 1:
        return None
    offsets = None
    if first.offsets_NG is not None:
        offsets = np.concatenate([w.offsets_NG for w in blocks if w.offsets_NG is not None])
    return BlockWeight(
        bits=first.bits,
        q_NGB=np.concatenate([w.q_NGB for w in blocks]),
        scales_NG=np.concatenate([w.scales_NG for w in blocks]),
        offsets_NG=offsets,
    )
