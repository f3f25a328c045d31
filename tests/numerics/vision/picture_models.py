"""Models that see, beside the same in transformers: one prompt with pictures in all kinds of engines.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from shoal.bench.generation import generate
from shoal.core.sequences.pictures import Picture, Pictures
from shoal.core.sequences.request import Request, RequestId
from shoal.model.runtime_sessions import session_options, share_pool, start_session
from shoal.model.vision.cut_picture import VisionModel
from shoal.model.vision.find_vision import find_vision
from shoal.model.vision.open_vision import open_vision
from shoal.model.vision.projector.projector_file import projector_beside
from shoal.router.engine import Engine
from shoal.vision.layout import lay_out, turns_of
from tests.model.tiny_vision import picture
from tests.numerics.engines import F32, GREEDY, THREADS, random_tokens

FIRST_TEXT, MIDDLE_TEXT, LAST_TEXT = random_tokens(11, seed=1), random_tokens(5, seed=2), random_tokens(9, seed=3)


@dataclass(frozen=True)
class SeenPrompt:
    """A prompt with two pictures, and what transformers makes of the same."""

    directory: Path
    placeholder: int
    family: str
    gguf: Path | None = None
    """the same model as a file, with its projector beside it; None: the directory is computed"""

    @property
    def model(self) -> Path:
        """What is computed."""
        return self.gguf or self.directory

    @cached_property
    def vision(self) -> VisionModel:
        files = find_vision(self.model, projector_beside(self.model))
        assert files is not None
        return open_vision(files)

    @cached_property
    def reference(self) -> Any:
        import torch
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(
            self.directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    @cached_property
    def session(self) -> ort.InferenceSession:
        share_pool(THREADS)
        return start_session(self.vision.graph, session_options())

    def vectors(self, pixels: np.ndarray) -> F32:
        """What the vision part's graph gives."""
        (vectors,) = self.session.run(None, dict(self.vision.cutter.cut(pixels).inputs))
        return np.asarray(vectors)

    def request(self, name: str, seeds: Sequence[int] = (0, 1), **options: Any) -> Request:
        """Two pictures between three texts."""
        cut = [self.vision.cutter.cut(picture(seed)) for seed in seeds]
        hole = [self.placeholder]
        layout = lay_out([*FIRST_TEXT, *hole, *MIDDLE_TEXT, *hole, *LAST_TEXT], self.placeholder, cut)
        pictures = tuple(
            Picture(key=one.key(), first_row=row, num_rows=one.num_rows, vectors=self.vectors(picture(seed)).tobytes())
            for one, row, seed in zip(cut, layout.first_rows, seeds, strict=True)
        )
        turns, ahead = turns_of(layout, cut) if self.vision.has_axes else (None, 0)
        shown = Pictures(pictures=pictures, turns=turns, ahead=ahead, sees_whole=self.vision.sees_whole)
        return Request(
            request_id=RequestId(name), prompt_ids=layout.prompt_ids, pictures=shown, sampling=GREEDY, **options
        )

    def expected(self, prompt_ids: Sequence[int], answer: Sequence[int], seeds: Sequence[int] = (0, 1)) -> F32:
        """transformers' logits [T, V] over prompt and answer in one pass, from its own processor."""
        import torch
        from PIL import Image

        processed = self.processor([Image.fromarray(picture(seed)) for seed in seeds], return_tensors="pt")
        ids = torch.tensor([[*prompt_ids, *answer]])
        kinds = (ids == self.placeholder).int()
        name = "token_type_ids" if self.family == "gemma3" else "mm_token_type_ids"
        with torch.no_grad():
            wanted = {key: processed[key] for key in ("pixel_values", "image_grid_thw") if key in processed}
            return self.reference(input_ids=ids, **{name: kinds}, **wanted, use_cache=False).logits[0].numpy()

    @cached_property
    def processor(self) -> Any:
        """transformers' own, that computes with Pillow."""
        if self.family == "gemma3":
            from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil as Processor
        else:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
        return Processor.from_pretrained(self.directory)

    def reference_prompt(self, text: str, num_pictures: int) -> str:
        """What transformers makes of a question with pictures before its text, each with one placeholder."""
        from transformers import AutoTokenizer

        content = [*({"type": "image"} for _ in range(num_pictures)), {"type": "text", "text": text}]
        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if self.family == "gemma3":  # as Gemma3Processor's `full_image_sequence`
            prompt = prompt.replace("<start_of_image>", "\n\n<start_of_image><image_soft_token><end_of_image>\n\n")
        return prompt

    def reference_counts(self, seeds: Sequence[int]) -> list[int]:
        """Placeholders of each picture."""
        if self.family == "gemma3":
            return [self.reference.config.mm_tokens_per_image] * len(seeds)
        from PIL import Image

        found = self.processor([Image.fromarray(picture(seed)) for seed in seeds], return_tensors="np")
        return [int(grid.prod()) // 4 for grid in found["image_grid_thw"]]


def answers(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """Output tokens of requests that are computed together."""
    return [result.token_ids for result in generate(engine, requests, concurrency=len(requests))]
