"""Does a split model say what the whole one says? Greedy tokens and raw logits of the same prompts, compared.

Both sides use the same precision, so the arithmetic is the same and tokens must be equal. Requests run alone, one a
replica at a time, so that both sides see the same batches. Logits may still differ in the last bits, where a split
cuts a prompt into other chunks and ONNX Runtime picks another kernel for another number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from shoal.bench.generation import Generation, generate
from shoal.core.request import Request, RequestId
from shoal.protocol.messages import Sampling
from shoal.router.engine import Engine

LOGIT_TOLERANCE = {"fp32": 1e-3, "int8": 0.5, "int4": 0.5, "auto": 0.5}
"""Largest logit difference that rounding explains. Quantized kernels round activations to 8 bits, and a difference in
the last bit of a sum can move one of them by a whole step. Source: docs/decisions/0002."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How far two runs of the same prompts agree."""

    num_prompts: int
    num_tokens: int
    """compared: both runs' output positions"""
    num_equal_tokens: int
    max_logit_difference: float
    """over the positions whose prefixes are equal"""
    tolerance: float

    @property
    def token_agreement(self) -> float:
        """Share of equal tokens, 0 to 1."""
        return self.num_equal_tokens / self.num_tokens

    @property
    def agrees(self) -> bool:
        """Whether the split is right."""
        return self.num_equal_tokens == self.num_tokens and self.max_logit_difference <= self.tolerance


def greedy_with_logits(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    output_tokens: int,
    concurrency: int,
    on_finished: Callable[[Generation], None] | None = None,
) -> list[Generation]:
    """Greedy continuations of every prompt, with the logits of every position."""
    requests = [
        Request(
            request_id=RequestId(f"verify-{index}"),
            prompt_ids=tuple(prompt),
            max_tokens=output_tokens,
            sampling=Sampling(temperature=0.0),
            want_logits=True,
        )
        for index, prompt in enumerate(prompts)
    ]
    return generate(engine, requests, concurrency=concurrency, on_finished=on_finished)


def compare(reference: Sequence[Generation], split: Sequence[Generation], precision: str) -> Verification:
    """Token agreement and the largest logit difference up to where the runs part."""
    pairs = list(zip(reference, split, strict=True))
    equal = [_num_equal(whole.token_ids, part.token_ids) for whole, part in pairs]
    return Verification(
        num_prompts=len(pairs),
        num_tokens=sum(max(len(whole.token_ids), len(part.token_ids)) for whole, part in pairs),
        num_equal_tokens=sum(equal),
        max_logit_difference=max(
            _max_difference(whole.logits[: count + 1], part.logits[: count + 1])
            for (whole, part), count in zip(pairs, equal, strict=True)
        ),
        tolerance=LOGIT_TOLERANCE[precision],
    )


def _num_equal(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _max_difference(left: Sequence[bytes], right: Sequence[bytes]) -> float:
    return max(
        float(np.abs(np.frombuffer(a, "<f4") - np.frombuffer(b, "<f4")).max())
        for a, b in zip(left, right, strict=False)
    )
