"""What every replica of a language model is to be able to take."""

from __future__ import annotations

from shoal.config import LaunchConfig
from shoal.model.on_disk import ModelOnDisk

BLOCK_SIZE = 16
"""Tokens in a KV block. Source: arXiv 2309.06180, section 7.2: 16 loses little to fragmentation at any length."""


def longest_context(config: LaunchConfig, model: ModelOnDisk) -> int:
    """Tokens of the longest sequence: what the user asked for, as far as the model goes."""
    return min(config.max_context or model.config.max_context, model.config.max_context)
