"""A picture as a vision part takes it, and the place of its vectors in a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from shoal.arrays import Array

VECTORS = "vectors"
"""Output of every vision graph: fp32 [rows, (1 + K) hidden size of the language model], see `PictureRows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPicture:
    """A picture, resized and arranged as the vision part expects."""

    inputs: Mapping[str, Array]
    """Inputs of the graph."""
    height: int
    """Rows of vectors; vectors lie in a prompt row by row."""
    width: int
    """Vectors in each row."""

    @property
    def num_rows(self) -> int:
        """Rows that the picture takes in a prompt."""
        return self.height * self.width

    def key(self) -> bytes:
        """A digest of everything except the model that the picture's vectors depend on."""
        digest = blake2b(f"{self.height} {self.width}".encode(), digest_size=16)
        for name in sorted(self.inputs):
            digest.update(name.encode() + np.ascontiguousarray(self.inputs[name]).tobytes())
        return digest.digest()


class PictureCutter(Protocol):
    """Prepares pictures for one model."""

    def cut(self, pixels: Array) -> CutPicture:
        """The inputs for a picture, [height, width, 3] uint8. Thread-safe. Raises InvalidRequest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionModel:
    """The vision part of a model, ready to be used."""

    graph: Path
    """The ONNX file that computes vectors of cut pictures."""
    cutter: PictureCutter
    num_columns: int
    """Columns of a vector, as many as the language model's rows have."""
    placeholders: tuple[str, ...]
    """Tokens that a prompt may have in place of each vector: the first one that the tokenizer knows."""
    mark: str
    """What a chat template writes where a picture is."""
    around: tuple[str, str] = ("", "")
    """Text that is put before and after the placeholders of a picture; it replaces the mark."""
    has_axes: bool = False
    """Whether rotary positions of its rows have height and width."""
    num_deep_layers: int = 0
    """Number of the language model's first layers after which something is added to a picture's rows."""
    sees_whole: bool = False
    """Whether the rows of a picture all see each other, whatever their order."""

    def sample(self) -> Mapping[str, Array]:
        """Inputs of a small gray picture, to try the graph with."""
        return self.cutter.cut(np.full((96, 96, 3), 128, np.uint8)).inputs
