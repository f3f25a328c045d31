"""Checking that a split model gives the same greedy tokens and raw logits as the whole one for the same prompts.

Both sides use the same precision, so tokens must be equal. Each replica runs one request at a time, so that both sides
see the same batches. Logits may still differ in the last bits if a split cuts a prompt into other chunks, as ONNX
Runtime uses other kernels for other numbers of rows.

Shards add the terms of sums in another order, in every layer. Rounding activations to 8 bits would amplify these
differences to its own error, which says nothing about the split. Shards are therefore compared with exact (15 bits)
activations on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from shoal.bench.generation import FinishedRequest, generate
from shoal.core.sequences.request import Request, RequestId
from shoal.protocol.language_messages import Sampling
from shoal.router.engine import Engine

LOGIT_TOLERANCE = {"fp32": 1e-3, "int8": 0.5, "int4": 0.5, "auto": 0.5}
"""Largest logit difference that rounding explains, by precision. Quantized kernels round activations to 8 bits, and a
difference in the last bit of a sum can change one by a whole quantization step. Source: docs/decisions/0007."""
EXACT_TOLERANCE = 1e-3
"""The tolerance of sums of thousands of terms in another order, with fp32 activations and logits up to 30. Two tokens
whose logits are closer than this are a tie; either may be chosen."""
SHARD_TOLERANCE = {"fp32": EXACT_TOLERANCE, "int8": 0.05, "int4": 0.05, "auto": 0.05}
"""The tolerance of logits and ties over shards, by precision, with exact activations. With quantized weights these have
15 bits, and a sum in another order changes some of them by a step. Source: SmolLM2, 30 layers, `tp=2`: 0.015."""

HALF_TOLERANCE = 0.3
"""The tolerance of a device with 16-bit floats: a hundredth of logits up to 30."""
LINK_TOLERANCE = {"fp16": 0.05, "int8": 1.0}
"""The tolerance of logits and ties if links between machines reduce precision: five times the difference measured with
SmolLM2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The agreement of two runs of the same prompts."""

    num_prompts: int
    num_tokens: int
    """Number of compared output positions."""
    num_equal_tokens: int
    num_ties: int
    """Number of outputs that first differ at a tie of the whole model."""
    num_mismatches: int
    """Number of outputs that first differ elsewhere."""
    max_logit_difference: float
    """Largest logit difference over the positions with equal prefixes."""
    tolerance: float

    @property
    def token_agreement(self) -> float:
        """Fraction of equal tokens, 0 to 1."""
        return self.num_equal_tokens / self.num_tokens

    @property
    def agrees(self) -> bool:
        """Whether the split model is correct: no mismatches, and logits within the tolerance."""
        return self.num_mismatches == 0 and self.max_logit_difference <= self.tolerance


def greedy_with_logits(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    output_tokens: int,
    concurrency: int,
    num_adapters: int = 0,
    on_finished: Callable[[FinishedRequest], None] | None = None,
) -> list[FinishedRequest]:
    """Generate greedy outputs of every prompt with the logits of all positions, without an adapter and with each of the
    adapters."""
    requests = [
        Request(
            request_id=RequestId(f"verify-{index}"),
            prompt_ids=tuple(prompt),
            max_tokens=output_tokens,
            sampling=Sampling(temperature=0.0),
            want_logits=True,
            adapter=index % (num_adapters + 1) - 1,
        )
        for index, prompt in enumerate(prompts)
    ]
    return generate(engine, requests, concurrency=concurrency, on_finished=on_finished)


def compare(
    reference: Sequence[FinishedRequest],
    split: Sequence[FinishedRequest],
    tolerance: float,
    tie_tolerance: float = EXACT_TOLERANCE,
) -> Verification:
    """Compare tokens, and logits up to the first different token.

    Args:
        reference: the outputs of the whole model.
        split: the outputs of the split model for the same prompts.
        tolerance: the largest allowed logit difference.
        tie_tolerance: two tokens whose logits in the whole model are closer than this are a tie.
    """
    pairs = list(zip(reference, split, strict=True))
    equal = [_num_equal(whole.token_ids, part.token_ids) for whole, part in pairs]
    gaps = [
        _gap(whole, part, count)
        for (whole, part), count in zip(pairs, equal, strict=True)
        if count < max(len(whole.token_ids), len(part.token_ids))
    ]
    return Verification(
        num_prompts=len(pairs),
        num_tokens=sum(max(len(whole.token_ids), len(part.token_ids)) for whole, part in pairs),
        num_equal_tokens=sum(equal),
        num_ties=sum(gap <= tie_tolerance for gap in gaps),
        num_mismatches=sum(gap > tie_tolerance for gap in gaps),
        max_logit_difference=max(
            _max_difference(whole.logits[: count + 1], part.logits[: count + 1])
            for (whole, part), count in zip(pairs, equal, strict=True)
        ),
        tolerance=tolerance,
    )


def _num_equal(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _gap(whole: FinishedRequest, part: FinishedRequest, position: int) -> float:
    """The logit of the whole model's token minus that of the split model's token, both in the whole model; infinite if
    one output has ended."""
    if position >= min(len(whole.token_ids), len(part.token_ids)):
        return float("inf")
    logits_V = np.frombuffer(whole.logits[position], "<f4")
    return float(logits_V[whole.token_ids[position]] - logits_V[part.token_ids[position]])


def _max_difference(left: Sequence[bytes], right: Sequence[bytes]) -> float:
    return max(
        float(np.abs(np.frombuffer(a, "<f4") - np.frombuffer(b, "<f4")).max())
        for a, b in zip(left, right, strict=False)
    )
