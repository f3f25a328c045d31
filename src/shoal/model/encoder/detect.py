"""Whether a folder holds a text encoder, told by its files before anything else is imported."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from shoal.errors import ModelLoadError
from shoal.model.encoder.sentence_settings import has_sentence_settings
from shoal.model.formats.model_file import read_json

BERT_TYPES = ("bert", "roberta", "xlm-roberta")
"""Types of models whose graph can be built here; others must bring one."""
_GRAPHS = (Path("onnx") / "model.onnx", Path("model.onnx"))


def is_encoder_folder(place: str) -> bool:
    """Whether the names of files, and the model type in `config.json`, are those of an encoder."""
    folder = Path(place)
    if not (folder / "tokenizer.json").is_file() or not (folder / "config.json").is_file():
        return False
    with suppress(ModelLoadError):
        if read_json(folder / "config.json").get("model_type") in BERT_TYPES:
            return True
    return has_sentence_settings(folder) and given_graph(folder) is not None


def given_graph(folder: Path) -> Path | None:
    """The ONNX file in the folder; None: there is none."""
    return next((folder / name for name in _GRAPHS if (folder / name).is_file()), None)
