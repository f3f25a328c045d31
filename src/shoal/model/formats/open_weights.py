"""Open a model's weights, whatever its file format."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import while_reading
from shoal.model.formats.model_path import is_settings_file
from shoal.model.formats.speech_files import CTRANSLATE2_FILE, is_ctranslate2
from shoal.model.weights import WeightSource


def open_weights(path: Path) -> WeightSource:
    """Open the weights at a path from `resolve_model`: a Hugging Face directory or a GGUF file. Reads headers only.

    Raises:
        ModelLoadError: a file is broken or truncated, or its architecture or quantization is not supported.
    """
    with while_reading(path):
        return _open_directory(path) if path.is_dir() else _open_gguf(path)


def open_sizes(path: Path) -> WeightSource:
    """As `open_weights`, for a path from `resolve_settings`. If the model has only settings, nothing but sizes can be
    read."""
    has_weights = path.is_dir() and (any(path.glob("*.safetensors")) or (path / CTRANSLATE2_FILE).is_file())
    if is_settings_file(path) or (path.is_dir() and not has_weights):
        from shoal.model.formats.settings_only import SettingsOnly

        return SettingsOnly(path)
    return open_weights(path)


def _open_directory(path: Path) -> WeightSource:
    from shoal.model.formats.ctranslate2 import open_ctranslate2  # imported here: a process opens models of one format
    from shoal.model.formats.huggingface.safetensors_dir import SafetensorsDir

    return open_ctranslate2(path) if is_ctranslate2(path) else SafetensorsDir(path)


def _open_gguf(path: Path) -> WeightSource:
    from shoal.model.formats.gguf.file import GgufFile

    return GgufFile(path)
