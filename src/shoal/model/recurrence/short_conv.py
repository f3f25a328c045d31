"""Short gated convolutions (LFM2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shoal.model.recurrence.shapes import BLOCK, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvConfig:
    """Layers that convolve each channel over a few tokens, with gates before and after.

    Names: `conv_b conv_c conv_x` (each computed from the hidden state), `conv_taps`, `conv_out`, and a bias of each if
    the model has biases. Source: LFM2 technical report, arXiv 2511.23404, section 2.
    """

    layers: tuple[int, ...]
    channels: int
    num_taps: int
    """Tokens that an output sees, including its own."""
    biases: bool = False
    inputs: tuple[str, ...] = ("conv_b", "conv_c", "conv_x")
    output: str = "conv_out"

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of a layer's tensors. Taps have three axes, as for a convolution in PyTorch."""
        shapes: dict[str, Shape] = dict.fromkeys(self.inputs, (self.channels, hidden_size))
        shapes["conv_taps"] = (self.channels, 1, self.num_taps)
        shapes["conv_out"] = (hidden_size, self.channels)
        if self.biases:
            shapes |= {f"{name}_bias": (self.channels,) for name in (*self.inputs, "conv_taps")}
            shapes["conv_out_bias"] = (hidden_size,)
        return shapes

    @property
    def own_vectors(self) -> tuple[str, ...]:
        """Names of the vectors that are not biases of matrices."""
        return ("conv_taps_bias",)

    @property
    def state_floats(self) -> int:
        """Numbers in one layer's state of one sequence."""
        return (self.num_taps - 1) * self.channels

    @property
    def in_width(self) -> int:
        """Numbers in a row of the inputs."""
        return len(self.inputs) * self.channels

    @property
    def out_width(self) -> int:
        """Numbers in a row from which the output is computed."""
        return self.channels

    @property
    def num_pieces(self) -> int:
        """Number of independent parts: channels."""
        return self.channels

    @property
    def piece_atom(self) -> int:
        """Number of pieces that stay together because the output matrix is quantized in blocks."""
        return BLOCK

    def rows_of_piece(self, name: str) -> int:
        """Rows of a tensor that belong to a piece; 0: every piece needs the whole tensor."""
        return 1 if name in (*self.inputs, "conv_taps") else 0

    def columns_of_piece(self, name: str) -> int:
        """Columns of a tensor that belong to a piece; 0: every piece needs the whole tensor."""
        return 1 if name == "conv_out" else 0

    def with_pieces(self, count: int) -> ShortConvConfig:
        """The layers of a shard, which may have no channels."""
        return replace(self, channels=count)
