"""Shoal: distributed model inference on unequal machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.api.graphs import Model, load

__all__ = ["Model", "load"]

# ONNX Runtime's Linux build would otherwise write a device id into the user's cache and look up a host of its vendor.
# It reads the variable when it is first imported; workers inherit it. Who wants telemetry sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """`load` and `Model` without the import time of everything behind them."""
    if name in __all__:
        from shoal.api import graphs

        return getattr(graphs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
