"""Features of layers that only some models have, as data: Gemma 3n's and Gemma 4's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
UNTURNED = 1e30
"""Divisor of a frequency that rotates nothing. Source: llama.cpp, conversion/gemma.py"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """Key heads of layers that differ from the others."""

    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInputs:
    """A small embedding of the token for each layer, which gates the layer's output.

    Source: transformers, models/gemma3n and gemma4 (`embed_tokens_per_layer`).
    """

    width: int
    """Width of one layer's input."""
    vocab_size: int
    """Rows of the table; later tokens use the row of token 0."""

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of a layer's matrices and vectors."""
        return {
            "input_gate": (self.width, hidden_size),
            "input_projection": (hidden_size, self.width),
            "post_input_norm": (hidden_size,),
        }

    def top_shapes(self, hidden_size: int, num_layers: int) -> Mapping[str, Shape]:
        """Shapes of the tensors at the model's beginning: the table, and what computes inputs from the token's
        embedding."""
        return {
            "layer_embedding": (self.vocab_size, num_layers * self.width),
            "inputs_projection": (num_layers * self.width, hidden_size),
            "inputs_norm": (self.width,),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AltUpConfig:
    """Several residual streams, of which a layer computes one and predicts the others, and a learned residual beside
    attention.

    Source: Alternating Updates, Baykal et al., NeurIPS 2023; LAuReL, arXiv 2411.07501; transformers, models/gemma3n.
    """

    num_streams: int
    active: int
    """Number of the stream that layers compute."""
    scales_output: bool
    """Whether the corrected stream is scaled before it is combined with the layer's input."""
    rank: int
    """Rank of the learned residual."""

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of a layer's matrices and vectors; coefficients count as vectors, row after row."""
        count = self.num_streams
        return {
            "stream_router": (count * hidden_size,),
            "stream_router_norm": (hidden_size,),
            "stream_prediction": (count**3,),
            "stream_correction": (count**2,),
            "stream_scale": (hidden_size,),
            "residual_down": (self.rank, hidden_size),
            "residual_up": (hidden_size, self.rank),
            "residual_norm": (hidden_size,),
        }

    def first_shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of the matrices that compute the other streams from the embedding."""
        return {f"streams.{stream}.spread": (hidden_size, hidden_size) for stream in range(1, self.num_streams)}

    def last_shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Shapes of the matrices that combine the other streams with the first one at the end."""
        return {f"streams.{stream}.join": (hidden_size, hidden_size) for stream in range(1, self.num_streams)}


def shared_sources(windows: Sequence[int], num_shared: int) -> tuple[int, ...]:
    """The layer whose keys each layer attends over, if the last layers use those of the last layer before them with the
    same kind of window; () if none share.

    Source: transformers, models/gemma3n and gemma4 (`num_kv_shared_layers`).

    Raises:
        ValueError: one of them has no such layer.
    """
    first_shared = len(windows) - num_shared
    if not 0 < first_shared <= len(windows):
        raise ValueError(f"{num_shared} of {len(windows)} layers share keys and values, which is impossible")
    latest = {bool(window): layer for layer, window in enumerate(windows[:first_shared])}
    if missing := {bool(window) for window in windows} - set(latest):
        kind = "a window" if missing.pop() else "full attention"
        raise ValueError(f"layers with {kind} share the keys of a layer that is not there")
    sources = [layer if layer < first_shared else latest[bool(window)] for layer, window in enumerate(windows)]
    return tuple(sources) if num_shared else ()
