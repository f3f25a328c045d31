"""How a model turns a text into one vector: pooling, scale, length, prompts.

Source: sentence-transformers, the files `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json` and
`config_sentence_transformers.json` that its models are saved with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from shoal.errors import ModelLoadError
from shoal.model.formats.model_file import map_file, read_json

PoolingMode = Literal["cls", "mean", "max", "last"]
_MODULES_FILE = "modules.json"
_POOLING_FILE = Path("1_Pooling") / "config.json"
_MODES: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_NAMES: Mapping[str, PoolingMode] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_MAX_MODULES = 16
LONGEST = 1 << 20
"""Larger limits on tokens mean that there is no limit."""
_KINDS = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceSettings:
    """Settings of one model."""

    pooling: PoolingMode
    """How the vectors of tokens become that of the text."""
    is_normalized: bool
    """whether vectors have length 1"""
    max_tokens: int | None = None
    """Most tokens of a text, special ones included; None: what the model can take."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Texts that are put before others, by the kind of text, such as `query`."""
    default_prompt: str = ""
    """The text that is put before texts of no given kind."""

    def prompt(self, kind: str) -> str:
        """The text that is put before texts of a kind, such as `query`."""
        return self.prompts.get(kind, self.default_prompt)


def has_sentence_settings(folder: Path) -> bool:
    """Whether a folder has settings for vectors of texts."""
    return (folder / _MODULES_FILE).is_file() or (folder / _POOLING_FILE).is_file()


def read_sentence_settings(folder: Path) -> SentenceSettings | None:
    """The settings in a folder; None: it has none for vectors of texts. Raises ModelLoadError if one is not
    supported."""
    if not has_sentence_settings(folder):
        return None
    kinds = module_folders(folder) or {"Transformer": "", "Pooling": "1_Pooling"}
    for kind in kinds:
        if kind not in _KINDS:
            raise ModelLoadError(
                f"{folder / _MODULES_FILE}: {kind[:100]!r} is not supported: a model may consist of a "
                "transformer, its pooling and a scale"
            )
    more = read_optional(folder / "config_sentence_transformers.json")
    prompts = {str(name): text for name, text in _object(more.get("prompts")).items() if isinstance(text, str) and text}
    name = more.get("default_prompt_name")
    return SentenceSettings(
        pooling=_pooling(folder / kinds.get("Pooling", "1_Pooling") / "config.json"),
        is_normalized="Normalize" in kinds,
        max_tokens=longest_text(folder),
        prompts=prompts,
        default_prompt=prompts.get(name, "") if isinstance(name, str) else "",
    )


def module_folders(folder: Path) -> dict[str, str]:
    """Folders of the steps in `modules.json` by their kinds, in order; empty: there is no such file.

    Raises:
        ModelLoadError: the file is not a list of steps, or one leads out of the folder.
    """
    path = folder / _MODULES_FILE
    if not path.is_file():
        return {}
    try:
        steps = json.loads(bytes(map_file(path)))
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(steps, list) or not 0 < len(cast(list[object], steps)) <= _MAX_MODULES:
        raise ModelLoadError(f"{path}: expected a list of steps")
    kinds: dict[str, str] = {}
    for step in cast(list[object], steps):
        fields = _object(step)
        place = str(fields.get("path", ""))
        if ".." in Path(place).parts or Path(place).is_absolute():
            raise ModelLoadError(f"{path}: {place[:100]!r} leads outside of the model's folder")
        kinds[str(fields.get("type", "")).rpartition(".")[2]] = place
    return kinds


def longest_text(folder: Path) -> int | None:
    """Most tokens of a text as saved by sentence-transformers (before its version 5 in a separate file, since then in
    the tokenizer's); None: not given. Raises ModelLoadError."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        length = read_optional(folder / name).get(key)
        if type(length) is int and 0 < length < LONGEST:
            return length
    return None


def read_optional(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty: there is no such file. Raises ModelLoadError."""
    return read_json(path) if path.is_file() else {}


def _pooling(path: Path) -> PoolingMode:
    fields = read_json(path)
    named = fields.get("pooling_mode")
    if isinstance(named, str):
        modes = [_NAMES.get(named, named)]
    else:
        modes = [_MODES.get(name, name) for name, value in fields.items() if "pooling_mode" in name and value is True]
    if len(modes) != 1 or modes[0] not in _NAMES.values():
        shown = ", ".join(map(str, modes))[:200] or "nothing"
        raise ModelLoadError(f"{path}: pooling by {shown} is not supported; use cls, mean, max or the last token")
    return cast(PoolingMode, modes[0])


def _object(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
