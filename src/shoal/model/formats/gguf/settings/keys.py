"""Access to the metadata and tensors of a GGUF file by keys without the architecture's name.

Source: GGUF specification and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.formats.config_check import MAX_EXTENT, integer, layer_count, number
from shoal.model.formats.gguf.architectures import ARCHITECTURES
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.layers.recurrent import MIXER_MARKS
from shoal.model.formats.gguf.parts import GgufParts


class GgufSettings:
    """The metadata and tensors of a file, and what is known about its architecture.

    Methods raise ModelLoadError, which names the key, or ValueError for an impossible value.
    """

    def __init__(self, header: GgufParts) -> None:
        self.header = header
        self.architecture = str(header.metadata.get("general.architecture"))
        known = ARCHITECTURES.get(self.architecture)
        if self.architecture == "clip":
            raise ModelLoadError(
                f"{header.path} is the vision part of a model (a multimodal projector); give the model's own file, and "
                "this one with --mmproj"
            )
        if known is None:
            raise ModelLoadError(
                f"{header.path}: architecture {self.architecture!r} is not supported; there are "
                f"{', '.join(ARCHITECTURES)}"
            )
        self.known = known

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the metadata that is not an array, or the default."""
        return self.header.metadata.get(f"{self.architecture}.{key}", default)

    def array(self, key: str) -> list[Any] | None:
        """An array of the metadata; None if there is none."""
        return self.header.array(f"{self.architecture}.{key}")

    def required(self, key: str, default: Any = None) -> Any:
        """A value that must be there. An array whose items are all equal counts as that item."""
        value = self.get(key, default)
        if values := self.array(key):
            if len(set(values)) > 1:
                raise ModelLoadError(f"{self.header.path}: {self.architecture}.{key} differs between layers")
            value = values[0]
        if value is None:
            raise ModelLoadError(f"{self.header.path}: the metadata has no {self.architecture}.{key}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """A positive whole number that must be there, unless there is a default."""
        value = self.required(key, default)
        if type(value) is not int or value <= 0:
            raise ModelLoadError(f"{self.header.path}: {self.architecture}.{key} is {value!r}, not a positive number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number that must be there, unless there is a default."""
        return number(key, self.required(key, default))

    @property
    def num_layers(self) -> int:
        """Layers of the model, without those that predict further tokens."""
        count = self.positive("block_count") - integer("nextn_predict_layers", self.get("nextn_predict_layers", 0))
        return layer_count("block_count", count)

    def num_rows(self, tensor: str) -> int:
        """Rows of a tensor; 0 if there is no such tensor."""
        found = self.header.tensors.get(tensor)
        return 0 if found is None else found.shape[0]

    def vector(self, name: str) -> list[float] | None:
        """The items of a tensor of fp32 numbers; None if there is no such tensor."""
        tensor = self.header.tensors.get(name)
        if tensor is None:
            return None
        if tensor.kind != Kind.F32 or len(tensor.shape) != 1 or tensor.shape[0] > MAX_EXTENT:
            raise ModelLoadError(f"{self.header.path}: {name} is not a list of fp32 numbers")
        values = self.header.rows(name).reshape(-1).view("<f4").astype(np.float64).tolist()
        return [number(name, value) for value in values]

    def has_any(self, layer: int, leaves: Collection[str]) -> bool:
        """Whether a layer has at least one of these tensors."""
        return any(f"blk.{layer}.{leaf}" in self.header.tensors for leaf in leaves)

    def first_with(self, leaf: str) -> int:
        """The first layer with such a tensor; 0 if there is none."""
        return next((layer for layer in range(self.num_layers) if self.has_any(layer, (leaf,))), 0)

    def halves(self) -> dict[str, Any]:
        """Layers without attention or recurrence and layers without an MLP, as fields of `DecoderConfig`; empty if
        every layer has both."""
        if not self.known.has_single_halves:
            return {}
        mixers = tuple(layer for layer in range(self.num_layers) if self.has_any(layer, MIXER_MARKS))
        others = tuple(layer for layer in range(self.num_layers) if layer not in mixers)
        return {"no_mlp_layers": mixers, "no_mixer_layers": others}
