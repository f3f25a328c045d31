"""The experts of a decoder's layers as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.protocol.stage_config import ExpertSpan, LayerExperts

GROUP_SCORES = 2
"""A group of experts is ranked by its two highest scores. Source: DeepSeek-V3, arXiv 2412.19437, section 2.1.2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """The experts of a layer: MLPs, of which a router chooses a few for each token.

    Source: Mixtral, arXiv 2401.04088; DeepSeek-V3, arXiv 2412.19437, section 2.1.2.
    """

    num_experts: int
    num_chosen: int
    """Experts that each token goes through."""
    columns: int
    """Columns of an expert's MLP."""
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    """Function that turns the router's outputs into scores, over all experts."""
    is_normalized: bool = True
    """Whether the weights of a token's experts are divided by their sum. With softmax, they then equal a softmax over
    the chosen experts alone."""
    scale: float = 1.0
    """Factor on the weights."""
    scales_input: bool = False
    """Whether weights multiply an expert's input, instead of its output (Llama 4)."""
    mixer_limit: float = 0.0
    """If positive, experts are chosen one after the other. Each gets its weight in a softmax over those left whose
    scores lie within this share of the highest (Phi-3.5-MoE). Source: SparseMixer, arXiv 2409.12136."""
    router_bias: bool = False
    selection_bias: bool = False
    """Whether experts are chosen with a bias that is not part of their weights."""
    num_groups: int = 1
    """Number of groups of neighboring experts."""
    num_chosen_groups: int = 1
    """Number of groups from which a token's experts may be chosen."""
    num_group_scores: int = 1
    """Number of highest scores whose sum ranks a group."""
    biases: bool = False
    """Whether every expert's gate, up and down have biases."""
    shared_columns: int = 0
    """Columns of the MLP that every token goes through in addition; 0: there is none."""
    shared_router: bool = False
    """Whether the shared MLP is weighted by a sigmoid of the token; otherwise its weight is 1."""
    has_own_norms: bool = False
    """Whether router, experts and shared MLP each have a norm of their own before them, and the latter two another one
    after them; then each expert also has a further factor (Gemma 4)."""
    dense_layers: tuple[int, ...] = ()
    """Layers that have a plain MLP instead of experts."""
    held: tuple[LayerExperts, ...] = ()
    """Experts that a shard holds, see `protocol.stage_config.ShardPart`; empty: all."""

    def held_in(self, layer: int) -> LayerExperts:
        """Experts of a layer that are held here: all, or some whole ones."""
        if not self.held:
            return (ExpertSpan(0, self.num_experts),)
        return self.held[0] if len(self.held) == 1 else self.held[layer]

    def numbers_in(self, layer: int) -> list[int]:
        """Numbers of the experts of a layer that are held here, ascending."""
        return [expert for span in self.held_in(layer) for expert in range(span.first, span.last)]

    def row_share(self, layer: int) -> float:
        """The fraction of a layer's rows that the experts held here compute, if all experts get equally many."""
        return sum(span.row_share for span in self.held_in(layer)) / self.num_experts

    def active_columns(self, layer: int) -> float:
        """Columns that a token goes through in a layer, on average if only some experts are held here."""
        return self.num_chosen * self.columns * self.row_share(layer) + self.shared_columns
