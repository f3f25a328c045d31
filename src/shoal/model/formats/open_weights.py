"""Open a model's weights, whatever its file format."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import while_reading
from shoal.model.formats.gguf_file import GgufFile
from shoal.model.formats.safetensors_dir import SafetensorsDir
from shoal.model.weights import WeightSource


def open_weights(path: Path) -> WeightSource:
    """Weights of a path from `resolve_model`: a Hugging Face directory, otherwise a GGUF file. Reads headers only.

    Raises:
        ModelLoadError: broken, truncated, or of an architecture or quantization that is not supported.
    """
    with while_reading(path):
        return SafetensorsDir(path) if path.is_dir() else GgufFile(path)
