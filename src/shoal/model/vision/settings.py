"""The settings of a model's vision part, read key by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.formats.model_file import read_json

_LARGEST = 1 << 20
"""Largest size in settings: far above every model's, and products of two fit 64 bits."""
_PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class VisionSettings:
    """Settings of one part, with errors that tell a user what is wrong."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self._values = path, values

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number. Raises ModelLoadError."""
        value = self._values.get(key, default)
        if type(value) is not int or not 0 < value <= _LARGEST:
            raise ModelLoadError(f"{self.path}: {key!r} of the vision part is {value!r:.200}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number. Raises ModelLoadError."""
        value = self._values.get(key, default)
        if type(value) not in (int, float) or not -1e30 < value < 1e30:
            raise ModelLoadError(f"{self.path}: {key!r} of the vision part is {value!r:.200}")
        return float(value)

    def numbers(self, key: str, default: tuple[float, ...], count: int) -> tuple[float, ...]:
        """A list of `count` finite numbers. Raises ModelLoadError."""
        values = self._values.get(key, default)
        values = values if isinstance(values, list | tuple) else ()
        if len(values) != count or any(type(one) not in (int, float) or not -1e30 < one < 1e30 for one in values):
            raise ModelLoadError(f"{self.path}: {key!r} of the vision part must be {count} numbers")
        return tuple(map(float, values))

    def places(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Numbers of layers. Raises ModelLoadError."""
        values = self._values.get(key, default)
        if not isinstance(values, list | tuple) or any(type(one) is not int for one in values):
            raise ModelLoadError(f"{self.path}: {key!r} of the vision part must be numbers of layers")
        return tuple(values)

    def word(self, key: str, default: str) -> str:
        """A text. Raises ModelLoadError."""
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise ModelLoadError(f"{self.path}: {key!r} of the vision part is {value!r:.200}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A switch; null counts as off."""
        return bool(self._values.get(key, default))

    def part(self, key: str) -> VisionSettings:
        """A part of these settings; empty if there is none."""
        value = self._values.get(key)
        return VisionSettings(self.path, value if isinstance(value, dict) else {})

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None


def read_preprocessor(folder: Path) -> VisionSettings:
    """The settings of the preprocessor, from the file of either version of transformers. Raises ModelLoadError."""
    for name in _PREPROCESSOR_FILES:
        path = folder / name
        if path.exists():
            values = read_json(path)
            inner = values.get("image_processor")
            return VisionSettings(path, inner if isinstance(inner, dict) else values)
    return VisionSettings(folder / _PREPROCESSOR_FILES[0], {})
