"""Whether a model is a speech model, told from its files before anything else is read."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import ModelLoadError, ShoalError
from shoal.model.formats.model_file import read_json
from shoal.model.formats.model_path import resolve_model

CTRANSLATE2_FILE = "model.bin"
_TYPES = ("whisper",)
_OTHER_SUFFIXES = (".gguf", ".onnx", ".yaml", ".yml", ".safetensors")


def is_ctranslate2(directory: Path) -> bool:
    """Whether a folder holds a model in CTranslate2's format."""
    return (directory / CTRANSLATE2_FILE).is_file() and next(directory.glob("*.safetensors"), None) is None


def is_speech_model(model: str) -> bool:
    """Whether a model is a speech model, by the model type in `config.json` or by CTranslate2's file. False if there is
    no such model.

    Args:
        model: the name that the user gave.
    """
    if model.lower().endswith(_OTHER_SUFFIXES):
        return False
    try:
        path = resolve_model(model)
        if not path.is_dir():
            return False
        return is_ctranslate2(path) or read_json(path / "config.json").get("model_type") in _TYPES
    except (ShoalError, OSError):
        return False


def speech_model(model: str) -> str:
    """The name of a model that must be a speech model. Raises ModelLoadError if it is not one, or does not exist."""
    if not is_speech_model(model):
        resolve_model(model)
        raise ModelLoadError(f"{model} is not a model of speech: give a folder with a Whisper model")
    return model
