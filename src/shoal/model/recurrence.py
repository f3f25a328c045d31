"""Recurrent layers as data: what they are computed from, the state that they carry, and into what they can be cut.

They stand in the place of attention in some layers of a model. Each kind says which matrices its inputs are products
of, and which its output goes through: the rest of a layer is as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd

Shape = tuple[int, ...]
TAPS = (2, 3, 4)
"""tokens that a convolution may see: native/recurrence/args.h"""
_BLOCK = 32
"""weights of a row that share a scale: weights.py"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvConfig:
    """Layers that convolve each channel over a few tokens, gated before and after.

    Names: `conv_b conv_c conv_x` (each from the hidden state), `conv_taps`, `conv_out`, and a bias of each where there
    are biases. Source: LFM2 technical report, arXiv 2511.23404, section 2.
    """

    layers: tuple[int, ...]
    channels: int
    num_taps: int
    """tokens that an output sees, its own included"""
    biases: bool = False
    inputs: tuple[str, ...] = ("conv_b", "conv_c", "conv_x")
    output: str = "conv_out"

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Of a layer's tensors. Taps have three axes, as a convolution's in PyTorch."""
        shapes: dict[str, Shape] = dict.fromkeys(self.inputs, (self.channels, hidden_size))
        shapes["conv_taps"] = (self.channels, 1, self.num_taps)
        shapes["conv_out"] = (hidden_size, self.channels)
        if self.biases:
            shapes |= {f"{name}_bias": (self.channels,) for name in (*self.inputs, "conv_taps")}
            shapes["conv_out_bias"] = (hidden_size,)
        return shapes

    @property
    def state_floats(self) -> int:
        """Numbers of one layer's state of one sequence."""
        return (self.num_taps - 1) * self.channels

    @property
    def in_width(self) -> int:
        """Numbers of a row that the inputs are."""
        return len(self.inputs) * self.channels

    @property
    def out_width(self) -> int:
        """Numbers of a row that the output is made of."""
        return self.channels

    @property
    def num_pieces(self) -> int:
        """Parts that see nothing of each other: channels."""
        return self.channels

    @property
    def piece_atom(self) -> int:
        """Pieces that stay together, as a quantized output matrix asks for."""
        return _BLOCK

    def rows_of_piece(self, name: str) -> int:
        """Rows of a tensor that belong to a piece; 0: all of it belongs to every piece."""
        return 1 if name in (*self.inputs, "conv_taps") else 0

    def columns_of_piece(self, name: str) -> int:
        """The same of columns."""
        return 1 if name == "conv_out" else 0

    def with_pieces(self, count: int) -> ShortConvConfig:
        """The layers of a shard, which may have no channels."""
        return replace(self, channels=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNetConfig:
    """Layers whose heads write into a matrix by the gated delta rule and read from it, behind a short convolution.

    Names: `delta_q delta_k delta_v delta_z delta_write delta_decay` (each from the hidden state), taps of the first
    three, `delta_rate` (negative), `delta_dt` (added to the decay), `delta_norm` and `delta_out`. Source: Gated Delta
    Networks, arXiv 2412.06464, section 3; as in Qwen3-Next.
    """

    layers: tuple[int, ...]
    num_key_heads: int
    value_heads_per_key: int
    """value heads that share a key head"""
    key_dim: int
    value_dim: int
    num_taps: int
    norm_epsilon: float
    in_turn: bool = False
    """whether value heads of different key heads follow each other, in the place of those of one; then all of them stay
    on one shard"""
    inputs: tuple[str, ...] = ("delta_q", "delta_k", "delta_v", "delta_z", "delta_write", "delta_decay")
    output: str = "delta_out"

    @property
    def num_value_heads(self) -> int:
        """Heads that have a matrix."""
        return self.num_key_heads * self.value_heads_per_key

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Of a layer's tensors."""
        shapes: dict[str, Shape] = {name: (self._num_rows(name), hidden_size) for name in self.inputs}
        shapes |= {f"{name}_taps": (self._num_rows(name), 1, self.num_taps) for name in self.inputs[:3]}
        shapes |= dict.fromkeys(("delta_rate", "delta_dt"), (self.num_value_heads,))
        return shapes | {"delta_norm": (self.value_dim,), "delta_out": (hidden_size, self.out_width)}

    @property
    def num_channels(self) -> int:
        """Of the convolution."""
        return sum(map(self._num_rows, self.inputs[:3]))

    @property
    def state_floats(self) -> int:
        """Numbers of one layer's state of one sequence."""
        return (self.num_taps - 1) * self.num_channels + self.out_width * self.key_dim

    @property
    def in_width(self) -> int:
        """Numbers of a row that the inputs are."""
        return sum(map(self._num_rows, self.inputs))

    @property
    def out_width(self) -> int:
        """Numbers of a row that the output is made of."""
        return self.num_value_heads * self.value_dim

    @property
    def num_pieces(self) -> int:
        """Parts that see nothing of each other: key heads with their value heads."""
        return self.num_key_heads

    @property
    def piece_atom(self) -> int:
        """Pieces that stay together, as a quantized output matrix asks for."""
        if self.in_turn and self.value_heads_per_key > 1:
            return self.num_key_heads
        return _BLOCK // gcd(_BLOCK, self.value_heads_per_key * self.value_dim)

    def rows_of_piece(self, name: str) -> int:
        """Rows of a tensor that belong to a piece; 0: all of it belongs to every piece."""
        match name.removesuffix("_taps"):
            case "delta_q" | "delta_k":
                return self.key_dim
            case "delta_v" | "delta_z":
                return self.value_heads_per_key * self.value_dim
            case "delta_write" | "delta_decay" | "delta_rate" | "delta_dt":
                return self.value_heads_per_key
            case _:
                return 0

    def columns_of_piece(self, name: str) -> int:
        """The same of columns."""
        return self.value_heads_per_key * self.value_dim if name == "delta_out" else 0

    def with_pieces(self, count: int) -> DeltaNetConfig:
        """The layers of a shard, which may have no heads."""
        return replace(self, num_key_heads=count)

    def _num_rows(self, name: str) -> int:
        return self.num_key_heads * self.rows_of_piece(name)


RecurrenceConfig = ShortConvConfig | DeltaNetConfig
