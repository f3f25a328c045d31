"""The gated delta rule (Qwen3-Next, Qwen 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd

from shoal.model.recurrence.shapes import BLOCK, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNetConfig:
    """Layers whose heads write to a matrix by the gated delta rule and read from it, after a short convolution.

    Names: `delta_q delta_k delta_v delta_z delta_write delta_decay` (each computed from the hidden state), taps of the
    first three, `delta_rate` (negative), `delta_dt` (added to the decay), `delta_norm` and `delta_out`. Source: Gated
    Delta Networks, arXiv 2412.06464, section 3; as in Qwen3-Next.
    """

    layers: tuple[int, ...]
    num_key_heads: int
    value_heads_per_key: int
    """Number of value heads that share a key head."""
    key_dim: int
    value_dim: int
    num_taps: int
    norm_epsilon: float
    in_turn: bool = False
    """Whether consecutive value heads belong to different key heads, instead of to the same one. A shard then has some
    value heads of every key head, and all queries and keys."""
    inputs: tuple[str, ...] = ("delta_q", "delta_k", "delta_v", "delta_z", "delta_write", "delta_decay")
    output: str = "delta_out"

    @property
    def num_value_heads(self) -> int:
        """Number of heads that have a matrix."""
        return self.num_key_heads * self.value_heads_per_key

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of a layer's tensors."""
        shapes: dict[str, Shape] = {name: (self.num_rows(name), hidden_size) for name in self.inputs}
        shapes |= {f"{name}_taps": (self.num_rows(name), 1, self.num_taps) for name in self.inputs[:3]}
        shapes |= dict.fromkeys(("delta_rate", "delta_dt"), (self.num_value_heads,))
        return shapes | {"delta_norm": (self.value_dim,), "delta_out": (hidden_size, self.out_width)}

    @property
    def own_vectors(self) -> tuple[str, ...]:
        """Names of the vectors that are not biases of matrices."""
        return ("delta_rate", "delta_dt", "delta_norm")

    @property
    def num_channels(self) -> int:
        """Channels of the convolution."""
        return sum(map(self.num_rows, self.inputs[:3]))

    @property
    def state_floats(self) -> int:
        """Numbers in one layer's state of one sequence."""
        return (self.num_taps - 1) * self.num_channels + self.out_width * self.key_dim

    @property
    def in_width(self) -> int:
        """Numbers in a row of the inputs."""
        return sum(map(self.num_rows, self.inputs))

    @property
    def out_width(self) -> int:
        """Numbers in a row from which the output is computed."""
        return self.num_value_heads * self.value_dim

    @property
    def num_pieces(self) -> int:
        """Number of independent parts: key heads with their value heads or, with `in_turn`, one value head of each key
        head."""
        return self.value_heads_per_key if self.in_turn else self.num_key_heads

    @property
    def piece_atom(self) -> int:
        """Number of pieces that stay together because the output matrix is quantized in blocks."""
        return BLOCK // gcd(BLOCK, self._heads_of_piece * self.value_dim)

    def rows_of_piece(self, name: str) -> int:
        """Rows of a tensor that belong to a piece; 0: every piece needs the whole tensor."""
        match name.removesuffix("_taps"):
            case "delta_q" | "delta_k":
                return 0 if self.in_turn else self.key_dim
            case "delta_v" | "delta_z":
                return self._heads_of_piece * self.value_dim
            case "delta_write" | "delta_decay" | "delta_rate" | "delta_dt":
                return self._heads_of_piece
            case _:
                return 0

    def columns_of_piece(self, name: str) -> int:
        """Columns of a tensor that belong to a piece; 0: every piece needs the whole tensor."""
        return self._heads_of_piece * self.value_dim if name == "delta_out" else 0

    def with_pieces(self, count: int) -> DeltaNetConfig:
        """The layers of a shard, which may have no heads."""
        if self.in_turn and count:
            return replace(self, value_heads_per_key=count)
        return replace(self, num_key_heads=count, value_heads_per_key=self.value_heads_per_key if count else 0)

    def num_rows(self, name: str) -> int:
        """Rows of one of the inputs, or of its taps."""
        match name.removesuffix("_taps"):
            case "delta_q" | "delta_k":
                return self.num_key_heads * self.key_dim
            case "delta_v" | "delta_z":
                return self.out_width
            case _:
                return self.num_value_heads

    @property
    def _heads_of_piece(self) -> int:
        """Number of value heads in a piece."""
        return self.num_key_heads if self.in_turn else self.value_heads_per_key
