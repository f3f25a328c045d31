"""Resolves what a user calls a text encoder to the folder that holds it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from shoal.config import user_path
from shoal.errors import ConfigError, ModelLoadError
from shoal.model.encoder.detect import BERT_TYPES, is_encoder_folder
from shoal.model.encoder.sentence_settings import has_sentence_settings
from shoal.model.formats.model_file import read_json
from shoal.model.formats.model_path import resolve_model

_SETTINGS = ("*.json",)
_WEIGHTS = ("*.json", "*.safetensors")
_GRAPH = ("*.json", "onnx/model.onnx*", "model.onnx*")
"""Files of a repository to download, which often has weights in other formats as well."""


def find_encoder_folder(name: str) -> Path | None:
    """The folder of an encoder; None: the name means something else, or nothing.

    Args:
        name: a folder, pkg:NAME (a model inside a package) or hf:org/name, which is downloaded if it is not in the
            local cache.
    """
    kind, colon, inner = name.partition(":")
    folder: Path | None = user_path(name)
    if colon and kind == "pkg":
        with suppress(ConfigError, ModelLoadError):  # the search for another kind of model reports the error
            folder = resolve_model(name)
    elif colon and kind == "hf":
        folder = _from_hub(inner) if inner.count("/") == 1 else None
    return folder if folder is not None and is_encoder_folder(str(folder)) else None


def encoder_name(name: str, folder: Path) -> str:
    """The name of an encoder: that of its package or repository, otherwise that of its folder.

    Args:
        name: the name that the user gave.
        folder: in which the encoder was found.
    """
    kind, colon, inner = name.partition(":")
    return inner.rpartition("/")[2] if colon and kind in ("pkg", "hf") else folder.resolve().name


def _from_hub(repository: str) -> Path | None:
    """The folder of a downloaded encoder. Its settings say whether it is an encoder, and which of its files are
    needed."""
    import huggingface_hub as hub

    with suppress(OSError, ValueError, hub.errors.HfHubHTTPError, ModelLoadError):
        folder = Path(hub.snapshot_download(repository, allow_patterns=list(_SETTINGS)))
        is_built = read_json(folder / "config.json").get("model_type") in BERT_TYPES
        if is_built or has_sentence_settings(folder):
            return Path(hub.snapshot_download(repository, allow_patterns=list(_WEIGHTS if is_built else _GRAPH)))
    return None
