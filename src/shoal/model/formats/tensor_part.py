"""Where a matrix or vector of a model lies in the tensors of its file.

Shapes: N rows of the part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import Range, resolve_range

Naming = Literal["huggingface", "gguf"]
"""The format whose tensor names are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPart:
    """Rows of a tensor of the file, or items of a vector: the place of one of the names of `WeightSource`."""

    tensor: str
    start: int
    stop: int
    heads: int = 0
    """If positive, the rows are this many heads in interleaved rotary order."""
    step: int = 1
    """Distance from the beginning of one run of rows to the next."""
    run: int = 1
    """Consecutive rows: those of one or several heads, where other rows lie between the runs."""
    stack: int = 0
    """If positive, the tensor holds this many matrices or vectors, and rows or items are counted through all of
    them."""
    turned: int = 0
    """If positive, the tensor holds the transposed matrix: these rows are inputs, and this is the number of outputs."""

    @property
    def num_inputs(self) -> int:
        """Inputs of a transposed matrix."""
        return self.stop - self.start

    @property
    def num_rows(self) -> int:
        if self.turned:
            return self.turned
        return len(range(self.start, self.stop, self.step)) * self.run

    def cut(self, rows: Range | None) -> TensorPart:
        """Rows [first, last) of the part. Raises ValueError if the part does not have them, or if they cut a head that
        must stay whole or a transposed matrix."""
        first, last = resolve_range(rows, self.num_rows)
        if self.turned:
            if (first, last) != (0, self.turned):
                raise ValueError(f"rows [{first}, {last}) of {self.tensor} cut a matrix that is turned")
            return self
        per_head = self.num_rows // self.heads if self.heads else 1
        if first % per_head or last % per_head or first % self.run or last % self.run:
            raise ValueError(f"rows [{first}, {last}) of {self.tensor} cut a head of {max(per_head, self.run)}")
        return replace(
            self,
            start=self.start + first // self.run * self.step,
            stop=self.start + last // self.run * self.step,
            heads=(last - first) // per_head if self.heads else 0,
        )

    def numbers(self, rotary_dim: int) -> slice | npt.NDArray[np.int64]:
        """Numbers of the tensor's rows in the order that the graph builder expects: half-split rotary order."""
        if self.run == 1 and not self.heads:
            return slice(self.start, self.stop, self.step)
        begins = np.arange(self.start, self.stop, self.step, dtype=np.int64)
        numbers_N = (begins[:, None] + np.arange(self.run)).reshape(-1)
        if not self.heads or numbers_N.size == 0:
            return numbers_N
        return numbers_N[half_split_order(self.heads, numbers_N.size // self.heads, rotary_dim)]


def half_split_order(num_heads: int, head_dim: int, rotary_dim: int) -> npt.NDArray[np.int64]:
    """Row numbers that reorder the rotating pairs (2i, 2i+1) of every head to (i, i + rotary_dim / 2).

    Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute, of which this is the inverse.
    """
    order = np.arange(head_dim)
    order[:rotary_dim] = np.concatenate([np.arange(0, rotary_dim, 2), np.arange(1, rotary_dim, 2)])
    return (np.arange(num_heads)[:, None] * head_dim + order).reshape(-1)


def rotating_heads(config: DecoderConfig, leaf: str) -> int:
    """Heads whose rows in this matrix, bias or norm of a layer are in rotary order; 0: its rows are not rotated."""
    heads = {"q": config.num_heads, "k": config.num_kv_heads}
    if config.parts_qk_norm:
        heads |= {"q_norm": config.num_heads, "k_norm": config.num_kv_heads}
    return heads.get(leaf.removesuffix("_bias"), 0)
