"""Kinds of split: what a plan is called in a word."""

from __future__ import annotations

from typing import Literal

Kind = Literal["single", "replicas", "pipeline", "tensor", "mixed"]
KINDS: tuple[Kind, ...] = ("single", "replicas", "pipeline", "tensor", "mixed")
"""from the simplest on: one worker; whole copies on one worker each; stages of one worker each; one group of shards"""


def kind_of_split(*, num_replicas: int, is_cut: bool, is_sharded: bool) -> Kind:
    """The word for so many replicas, each of several stages or not, its stages of several shards or not."""
    if num_replicas > 1:
        return "mixed" if is_cut or is_sharded else "replicas"
    if is_cut:
        return "mixed" if is_sharded else "pipeline"
    return "tensor" if is_sharded else "single"
