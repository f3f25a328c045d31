"""The experts of a decoder's layers as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.protocol.stage_config import ExpertSpan, LayerExperts

GROUP_SCORES = 2
"""A group of experts is ranked by its two highest scores. Source: DeepSeek-V3, arXiv 2412.19437, section 2.1.2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """The experts of a layer: MLPs of which every token goes through a few, chosen by a router.

    Source: Mixtral, arXiv 2401.04088; DeepSeek-V3, arXiv 2412.19437, section 2.1.2.
    """

    num_experts: int
    num_chosen: int
    """experts that a token goes through"""
    columns: int
    """of an expert's MLP"""
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    """of the router's outputs, over all experts"""
    is_normalized: bool = True
    """Whether the weights of a token's experts are divided by their sum; of a softmax they are then those of a softmax
    over the chosen experts alone."""
    scale: float = 1.0
    """factor on the weights"""
    scales_input: bool = False
    """whether the weights are factors on what an expert reads, in the place of what it gives (Llama 4)"""
    mixer_limit: float = 0.0
    """Where positive, experts are chosen one after the other, each with the weight that it has in a softmax over those
    left whose scores lie within this share of the highest (Phi-3.5-MoE). Source: SparseMixer, arXiv 2409.12136."""
    router_bias: bool = False
    selection_bias: bool = False
    """a bias that experts are chosen by, and that their weights do not have"""
    num_groups: int = 1
    """of neighboring experts"""
    num_chosen_groups: int = 1
    """whose experts a token may go through"""
    num_group_scores: int = 1
    """a group is ranked by the sum of so many of its highest scores"""
    biases: bool = False
    """of every expert's gate, up and down"""
    shared_columns: int = 0
    """of the MLP that every token goes through beside its experts; 0: there is none"""
    shared_router: bool = False
    """whether the shared MLP's weight is a sigmoid of the token, else 1"""
    has_own_norms: bool = False
    """whether router, experts and shared MLP each read a norm of their own, and the latter two have another behind
    them; a token's experts have a further factor each then (Gemma 4)"""
    dense_layers: tuple[int, ...] = ()
    """layers that have a plain MLP in the place of experts"""
    held: tuple[LayerExperts, ...] = ()
    """those that a shard holds, see `protocol.stage_config.ShardPart`; empty: all"""

    def held_in(self, layer: int) -> LayerExperts:
        """Experts of a layer that are held here: all, or some of them whole."""
        if not self.held:
            return (ExpertSpan(0, self.num_experts),)
        return self.held[0] if len(self.held) == 1 else self.held[layer]

    def numbers_in(self, layer: int) -> list[int]:
        """The same by their numbers, ascending."""
        return [expert for span in self.held_in(layer) for expert in range(span.first, span.last)]

    def row_share(self, layer: int) -> float:
        """The part of a layer's rows that the experts held here compute, where all experts have as many rows."""
        return sum(span.row_share for span in self.held_in(layer)) / self.num_experts

    def active_columns(self, layer: int) -> float:
        """Columns that a token goes through in a layer, on average where only some experts are held here."""
        return self.num_chosen * self.columns * self.row_share(layer) + self.shared_columns
