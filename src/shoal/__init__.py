"""Shoal: distributed model inference on unequal machines."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.api.chains import LoadedChain, chain
    from shoal.api.encoders import Encoder
    from shoal.api.generation import LLM, CompletionOutput, RequestOutput
    from shoal.api.graphs import Model, load
    from shoal.api.speech import SpeechSegment, Transcriber, Transcript

__all__ = [
    "LLM",
    "CompletionOutput",
    "Encoder",
    "LoadedChain",
    "Model",
    "RequestOutput",
    "SpeechSegment",
    "Transcriber",
    "Transcript",
    "chain",
    "load",
]

_MODULES = {
    "Encoder": "shoal.api.encoders",
    "LoadedChain": "shoal.api.chains",
    "Model": "shoal.api.graphs",
    "chain": "shoal.api.chains",
    "load": "shoal.api.graphs",
    "SpeechSegment": "shoal.api.speech",
    "Transcriber": "shoal.api.speech",
    "Transcript": "shoal.api.speech",
}
"""of what is not in `shoal.api.generation`"""

# ONNX Runtime's Linux build would otherwise write a device id into the user's cache and look up a host of its vendor.
# It reads the variable when it is first imported; workers inherit it. Who wants telemetry sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


logging.getLogger("shoal").addHandler(logging.NullHandler())  # silent until whoever uses the library wants to read it


def __getattr__(name: str) -> Any:
    """What is public, without the import time of everything behind it until it is asked for."""
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "shoal.api.generation")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
