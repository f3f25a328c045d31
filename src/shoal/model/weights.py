"""Weights as the graph builder sees them, whatever file they came from.

Shapes: N output features, K input features, G = K / BLOCK quantization blocks along K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from shoal.model.decoder_config import DecoderConfig

BLOCK = 32
"""Weights that share one scale. Source: Q4_0, Q4_1, Q8_0 and the sub-blocks of Q4_K, GGUF specification."""

Precision = Literal["auto", "fp32", "int8", "int4"]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseWeight:
    """A matrix in fp32, rows are output features."""

    values_NK: F32

    @property
    def shape(self) -> tuple[int, int]:
        return self.values_NK.shape[0], self.values_NK.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.values_NK.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeight:
    """A block-quantized matrix: w = (q - 2**(bits-1)) * scale + offset, one scale and offset for BLOCK inputs.

    Packing is that of ONNX Runtime's MatMulNBits: for 4 bits, byte j of a block holds q[2j] in its low and q[2j+1] in
    its high nibble.
    """

    bits: Literal[4, 8]
    q_NGB: U8
    """[N, G, BLOCK * bits / 8]"""
    scales_NG: F32
    offsets_NG: F32 | None = None
    """None: symmetric, no offset"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.q_NGB.shape[0], self.q_NGB.shape[1] * BLOCK

    @property
    def num_bytes(self) -> int:
        offsets = self.offsets_NG.nbytes if self.offsets_NG is not None else 0
        return self.q_NGB.nbytes + self.scales_NG.nbytes + offsets


Weight = DenseWeight | BlockWeight


class WeightSource(Protocol):
    """A model file, opened lazily: nothing is read until it is asked for, and nothing is kept.

    Names: `embedding`, `final_norm`, `head` (falls back to `embedding` where tied) and, for layer i,
    `layers.i.` + `attn_norm q k v q_bias k_bias v_bias q_norm k_norm o post_attn_norm mlp_norm gate up down
    post_mlp_norm`. Rows of q and k are in half-split (NeoX) rotary order whatever the file's order is.
    """

    @property
    def config(self) -> DecoderConfig: ...

    def matrix(self, name: str, precision: Precision) -> Weight:
        """A matrix at that precision; `auto` keeps a quantized file's own blocks. Raises ModelLoadError."""
        ...

    def vector(self, name: str) -> F32:
        """A norm weight or bias in fp32, ready to multiply (Gemma's +1 already added). Raises ModelLoadError."""
        ...

    def matrix_bytes(self, name: str, precision: Precision) -> int:
        """What `matrix(name, precision).num_bytes` would be, from the header alone."""
        ...


def concatenate_rows(weights: Sequence[Weight]) -> Weight | None:
    """One matrix with the rows of all, or None where their formats differ."""
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
