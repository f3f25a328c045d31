"""Mamba-2 (Granite 4 hybrid, Nemotron-H)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd

from shoal.model.recurrence.shapes import BLOCK, Shape

ORDER = ("mamba_z", "mamba_x", "mamba_write", "mamba_read", "mamba_step")
"""Order of the inputs in the one projection that files have; taps exist for the middle three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaConfig:
    """Layers whose heads write to a decaying state and read from it, after a short convolution.

    Names: `mamba_x mamba_write mamba_read mamba_z mamba_step` (each computed from the hidden state; write, read and
    step are B, C and dt in the paper), taps of the first three, `mamba_rate` (negative), `mamba_start` (added to the
    step), `mamba_skip` (D), `mamba_norm` and `mamba_out`, and biases if the model has them. Source: Mamba-2, arXiv
    2405.21060, section 7.
    """

    layers: tuple[int, ...]
    num_groups: int
    """Number of groups of neighboring heads, which share what is written and read, and a norm."""
    heads_per_group: int
    head_dim: int
    state_dim: int
    num_taps: int
    norm_epsilon: float
    taps_bias: bool = True
    biases: bool = False
    """Whether matrices have biases."""
    norm_channels: int = 0
    """Channels of the one group of which a shard has only some heads; 0: groups are whole."""
    inputs: tuple[str, ...] = ("mamba_x", "mamba_write", "mamba_read", "mamba_z", "mamba_step")
    output: str = "mamba_out"

    @property
    def num_heads(self) -> int:
        return self.num_groups * self.heads_per_group

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of a layer's tensors."""
        shapes: dict[str, Shape] = {name: (self.num_rows(name), hidden_size) for name in self.inputs}
        shapes |= {f"{name}_taps": (self.num_rows(name), 1, self.num_taps) for name in self.inputs[:3]}
        if self.taps_bias:
            shapes |= {f"{name}_taps_bias": (self.num_rows(name),) for name in self.inputs[:3]}
        if self.biases:
            shapes |= {f"{name}_bias": (self.num_rows(name),) for name in self.inputs}
            shapes["mamba_out_bias"] = (hidden_size,)
        shapes |= dict.fromkeys(("mamba_rate", "mamba_start", "mamba_skip"), (self.num_heads,))
        return shapes | {"mamba_norm": (self.out_width,), "mamba_out": (hidden_size, self.out_width)}

    @property
    def own_vectors(self) -> tuple[str, ...]:
        """Names of the vectors that are not biases of matrices."""
        biases = (f"{name}_taps_bias" for name in self.inputs[:3])
        return ("mamba_rate", "mamba_start", "mamba_skip", "mamba_norm", *biases)

    @property
    def num_channels(self) -> int:
        """Channels of the convolution."""
        return sum(map(self.num_rows, self.inputs[:3]))

    @property
    def state_floats(self) -> int:
        """Numbers in one layer's state of one sequence."""
        return (self.num_taps - 1) * self.num_channels + self.out_width * self.state_dim

    @property
    def in_width(self) -> int:
        """Numbers in a row of the inputs."""
        return sum(map(self.num_rows, self.inputs))

    @property
    def out_width(self) -> int:
        """Numbers in a row from which the output is computed."""
        return self.num_heads * self.head_dim

    @property
    def num_pieces(self) -> int:
        """Number of independent parts: groups of heads or, if there is only one group, heads."""
        return self.num_groups * (self.heads_per_group if self._cuts_heads else 1)

    @property
    def piece_atom(self) -> int:
        """Number of pieces that stay together because the output matrix is quantized in blocks."""
        return BLOCK // gcd(BLOCK, self.columns_of_piece("mamba_out"))

    def rows_of_piece(self, name: str) -> int:
        """Rows of a tensor that belong to a piece; 0: every piece needs the whole tensor."""
        leaf = name.removesuffix("_taps")
        if not self._cuts_heads:
            return self._rows_of_group(leaf)
        return 0 if leaf in ("mamba_write", "mamba_read") else self._rows_of_group(leaf) // max(1, self.heads_per_group)

    def columns_of_piece(self, name: str) -> int:
        """Columns of a tensor that belong to a piece; 0: every piece needs the whole tensor."""
        return self.rows_of_piece("mamba_x") if name == "mamba_out" else 0

    def with_pieces(self, count: int) -> MambaConfig:
        """The layers of a shard, which may have no heads."""
        if not self._cuts_heads:
            return replace(self, num_groups=count)
        if count == self.heads_per_group:
            return self
        return replace(
            self, num_groups=min(1, count), heads_per_group=count, norm_channels=self.norm_channels or self.out_width
        )

    @property
    def shared_norm(self) -> tuple[int, float] | None:
        """Channels and epsilon of a norm whose channels are divided among shards; None: the norm is this shard's
        own."""
        return (self.norm_channels, self.norm_epsilon) if self.norm_channels else None

    def num_rows(self, name: str) -> int:
        """Rows of one of the inputs, or of its taps."""
        return self.num_groups * self._rows_of_group(name.removesuffix("_taps"))

    @property
    def _cuts_heads(self) -> bool:
        return self.num_groups <= 1

    def _rows_of_group(self, name: str) -> int:
        match name:
            case "mamba_x" | "mamba_z" | "mamba_norm":
                return self.heads_per_group * self.head_dim
            case "mamba_write" | "mamba_read":
                return self.state_dim
            case "mamba_step" | "mamba_rate" | "mamba_start" | "mamba_skip":
                return self.heads_per_group
            case _:
                return 0


def joined_rows(recurrence: MambaConfig, leaf: str) -> tuple[int, int] | None:
    """Rows [first, last) of an input, its bias, its taps or their bias in the joined tensor; None for other names."""
    name = leaf.removesuffix("_bias").removesuffix("_taps")
    order = ORDER[1:4] if "_taps" in leaf else ORDER
    if name not in order:
        return None
    first = sum(recurrence.num_rows(before) for before in order[: order.index(name)])
    return first, first + recurrence.num_rows(name)
