"""What becomes of a picture before a vision part computes it, and where its vectors go in a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from shoal.arrays import Array

VECTORS = "vectors"
"""The output of every graph of a vision part, fp32 [rows, (1 + K) hidden size of the language model]: `PictureRows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPicture:
    """A picture in the size and order that a vision part wants."""

    inputs: Mapping[str, Array]
    """of the graph"""
    height: int
    """rows of its vectors, which lie in a prompt row by row"""
    width: int
    """vectors in each of them"""

    @property
    def num_rows(self) -> int:
        """Of a prompt."""
        return self.height * self.width

    def key(self) -> bytes:
        """A digest of all that its vectors depend on beside the model."""
        digest = blake2b(f"{self.height} {self.width}".encode(), digest_size=16)
        for name in sorted(self.inputs):
            digest.update(name.encode() + np.ascontiguousarray(self.inputs[name]).tobytes())
        return digest.digest()


class PictureCutter(Protocol):
    """How one model takes pictures."""

    def cut(self, pixels: Array) -> CutPicture:
        """The inputs for a picture, [height, width, 3] uint8. Thread-safe. Raises InvalidRequest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionModel:
    """The vision part of a model, as its directory has it."""

    graph: Path
    """the ONNX file that makes vectors of cut pictures"""
    cutter: PictureCutter
    num_columns: int
    """of a vector, as wide as the language model's rows"""
    placeholders: tuple[str, ...]
    """tokens that a prompt may have for each vector: the first that the tokenizer knows"""
    mark: str
    """what a chat template writes where a picture is"""
    around: tuple[str, str] = ("", "")
    """what then stands before and behind the placeholders of a picture, in the place of the mark"""
    has_axes: bool = False
    """whether its rows turn by height and width"""
    num_deep_layers: int = 0
    """first layers of the language model behind which something is added to its rows"""
    sees_whole: bool = False
    """whether its rows see each other whatever their order"""

    def sample(self) -> Mapping[str, Array]:
        """Inputs of a small gray picture, to try the graph with."""
        return self.cutter.cut(np.full((96, 96, 3), 128, np.uint8)).inputs
