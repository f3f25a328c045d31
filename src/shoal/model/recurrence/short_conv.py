"""Short gated convolutions (LFM2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shoal.model.recurrence.shapes import BLOCK, Shape


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
    def own_vectors(self) -> tuple[str, ...]:
        """Names of those that are no biases of its matrices."""
        return ("conv_taps_bias",)

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
        return BLOCK

    def rows_of_piece(self, name: str) -> int:
        """Rows of a tensor that belong to a piece; 0: all of it belongs to every piece."""
        return 1 if name in (*self.inputs, "conv_taps") else 0

    def columns_of_piece(self, name: str) -> int:
        """The same of columns."""
        return 1 if name == "conv_out" else 0

    def with_pieces(self, count: int) -> ShortConvConfig:
        """The layers of a shard, which may have no channels."""
        return replace(self, channels=count)
