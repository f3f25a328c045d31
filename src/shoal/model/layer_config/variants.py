"""What layers of some models have beside attention and an MLP, as data: Gemma 3n's and Gemma 4's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
UNTURNED = 1e30
"""Divisor of a frequency that turns nothing. Source: llama.cpp, conversion/gemma.py"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """Key heads of some layers where they differ from the others'."""

    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInputs:
    """A small embedding of the token for each layer, by which the layer's output is gated.

    Source: transformers, models/gemma3n and gemma4 (`embed_tokens_per_layer`).
    """

    width: int
    """of one layer's input"""
    vocab_size: int
    """rows of the table; tokens beyond have those of token 0"""

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Matrices and vectors of a layer."""
        return {
            "input_gate": (self.width, hidden_size),
            "input_projection": (hidden_size, self.width),
            "post_input_norm": (hidden_size,),
        }

    def top_shapes(self, hidden_size: int, num_layers: int) -> Mapping[str, Shape]:
        """Of the model's beginning: the table, and what makes inputs of the token's embedding."""
        return {
            "layer_embedding": (self.vocab_size, num_layers * self.width),
            "inputs_projection": (num_layers * self.width, hidden_size),
            "inputs_norm": (self.width,),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AltUpConfig:
    """Several residual streams of which a layer computes one and predicts the others, and a learned residual beside
    its attention.

    Source: Alternating Updates, Baykal et al., NeurIPS 2023; LAuReL, arXiv 2411.07501; transformers, models/gemma3n.
    """

    num_streams: int
    active: int
    """the stream that layers compute"""
    scales_output: bool
    """whether the corrected stream is scaled before it meets the layer's input"""
    rank: int
    """of the learned residual"""

    def shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Matrices of a layer, and vectors; coefficients count as vectors, row after row."""
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
        """Of the model's beginning: how the embedding becomes the other streams."""
        return {f"streams.{stream}.spread": (hidden_size, hidden_size) for stream in range(1, self.num_streams)}

    def last_shapes(self, hidden_size: int) -> Mapping[str, Shape]:
        """Of its end: how the other streams become one with the first."""
        return {f"streams.{stream}.join": (hidden_size, hidden_size) for stream in range(1, self.num_streams)}


def shared_sources(windows: Sequence[int], num_shared: int) -> tuple[int, ...]:
    """The layer whose keys each layer attends over, where the last layers have those of the last one before them that
    sees as much; () where none shares.

    Source: transformers, models/gemma3n and gemma4 (`num_kv_shared_layers`).

    Raises:
        ValueError: there is no such layer for one of them.
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
