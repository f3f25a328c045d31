"""What families with LayerNorms have in common."""

from __future__ import annotations

from typing import Any

PLAIN: dict[str, Any] = {"centers_norms": True, "norm_bias": True, "gated_mlp": False}
"""LayerNorms with biases, and an MLP without a gate."""
EPSILON = {"layer_norm_eps": "rms_norm_eps"}
"""The name that most of these families use for a norm's epsilon."""
