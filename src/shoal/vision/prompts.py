"""Prompts with pictures: from a client's message to rows of a request.

The vision part is a graph in workers of its own. Its output is kept with the request, so that restarted workers of the
language model get it again (docs/decisions/0044-pictures.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shoal.arrays import Array
from shoal.core.sequences.pictures import Picture, Pictures
from shoal.errors import InvalidRequest, ModelLoadError
from shoal.generation.call_requests import ContextLengthExceeded
from shoal.generation.data_plane import DataPlane
from shoal.model.allocator import give_memory_back
from shoal.model.vision.cut_picture import VECTORS, CutPicture, VisionModel
from shoal.model.vision.pixels import PictureSource, decode_picture
from shoal.vision.kept_vectors import KeptVectors
from shoal.vision.layout import PromptLayout, lay_out, turns_of
from shoal.vision.sources import read_source

MAX_PICTURES = 32
"""Most pictures of one request."""


_LARGE_BYTES = 24 << 20
"""Pictures from this size on (eight million pixels) are followed by returning free memory to the system. Otherwise the
C library would keep several hundred MB after large pictures (benchmarks/pictures.py)."""


class Tower(Protocol):
    """The running vision part."""

    def start(self) -> None:
        """Start computing, in the running event loop."""
        ...

    async def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of its graph. Raises ShoalError."""
        ...

    async def close(self) -> None:
        """Stop its workers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPrompt:
    """A prompt and its pictures, before their vectors are computed. Implements `generation.seams.PlacedPictures`."""

    layout: PromptLayout
    cut: tuple[CutPicture, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """See `generation.seams.PlacedPictures`."""
        return self.layout.prompt_ids


class VisionPrompts:
    """Implements `generation.seams.PicturePrompts` for one model."""

    def __init__(self, data_plane: DataPlane, model: VisionModel, tower: Tower, *, allows_remote: bool = False) -> None:
        """
        Args:
            data_plane: of the language model.
            model: its vision part.
            tower: computes it.
            allows_remote: whether pictures may be fetched from other servers.

        Raises:
            ModelLoadError: the tokenizer lacks the token that stands for a picture.
        """
        ids = {text: data_plane.tokenizer.added_token_id(text) for text in model.placeholders}
        known = [(text, token_id) for text, token_id in ids.items() if token_id is not None]
        if not known:
            raise ModelLoadError(f"the tokenizer has no token {model.placeholders[0]}, which stands for pictures")
        self._data_plane, self._model, self._tower = data_plane, model, tower
        self._placeholder, self._placeholder_id = known[0]
        self._allows_remote = allows_remote
        self._width = (1 + model.num_deep_layers) * model.num_columns
        self._kept = KeptVectors()

    def start(self) -> None:
        """See `Tower.start`."""
        self._tower.start()

    async def close(self) -> None:
        """See `Tower.close`."""
        await self._tower.close()

    async def place(self, prompt: str, sources: Sequence[PictureSource]) -> CutPrompt:
        """See `generation.seams.PicturePrompts.place`."""
        if len(sources) > MAX_PICTURES:
            raise InvalidRequest(
                f"the request has {len(sources)} pictures, but at most {MAX_PICTURES} are allowed", param="messages"
            )
        before, behind = self._model.around
        one = f"{before}{self._placeholder}{behind}"
        if one != self._model.mark:
            prompt = prompt.replace(self._model.mark, one)
        (prompt_ids,) = await self._data_plane.prompts.encode([prompt], add_special=False, param="messages")
        cut = [await self._data_plane.readers.run(lambda source=source: self._cut(source)) for source in sources]
        num_rows = len(prompt_ids) + sum(picture.num_rows - 1 for picture in cut)
        if num_rows >= self._data_plane.max_context:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._data_plane.max_context} tokens, but the "
                f"prompt with its pictures has {num_rows}: send fewer or smaller pictures",
                param="messages",
            )
        return CutPrompt(layout=lay_out(prompt_ids, self._placeholder_id, cut), cut=tuple(cut))

    async def compute(self, placed: CutPrompt) -> Pictures:
        """See `generation.seams.PicturePrompts.compute`."""
        pictures: list[Picture] = []
        for first_row, cut in zip(placed.layout.first_rows, placed.cut, strict=True):
            key = await self._data_plane.readers.run(cut.key)
            vectors = await self._vectors(key, cut)
            pictures.append(Picture(key=key, first_row=first_row, num_rows=cut.num_rows, vectors=vectors))
        turns, ahead = turns_of(placed.layout, placed.cut) if self._model.has_axes else (None, 0)
        return Pictures(pictures=tuple(pictures), turns=turns, ahead=ahead, sees_whole=self._model.sees_whole)

    def _cut(self, source: PictureSource) -> CutPicture:
        content = read_source(source, allows_remote=self._allows_remote)
        try:
            pixels = decode_picture(content, "a picture")
            cut = self._model.cutter.cut(pixels)
        except InvalidRequest as error:
            raise InvalidRequest(str(error), param="messages") from error
        if pixels.nbytes > _LARGE_BYTES:
            del pixels
            give_memory_back()
        return cut

    async def _vectors(self, key: bytes, cut: CutPicture) -> bytes:
        """The vectors of a picture, fp32 [rows, W], see `Picture`."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        vectors = (await self._tower.infer(cut.inputs))[VECTORS]
        assert vectors.shape == (cut.num_rows, self._width), "the vision part is of another model"
        packed = np.ascontiguousarray(vectors, "<f4").tobytes()
        self._kept.put(key, packed)
        return packed
