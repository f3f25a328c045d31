"""How the work is cut into micro-batches, so that the stages of a pipeline never wait for one giant step.

With as many steps in flight as there are stages, every stage is busy as long as the steps take equally long: the
pipeline moves at the pace of its largest step, and a small step beside it leaves a hole in every stage.
"""

from __future__ import annotations


def decode_share(num_decoding: int, num_micro_batches: int) -> int:
    """The most decode rows that a step takes: an equal part of all decoding sequences, in flight or not."""
    return -(-num_decoding // num_micro_batches)


def prefill_share(num_pending: int, num_in_flight: int, num_micro_batches: int, minimum: int) -> int:
    """Prefill rows that the next step may take, so that all steps in flight end up with equal parts.

    What is in flight counts as already dealt out: 16 prompts of 128 tokens on two stages are dealt 1024 and 1024 (each
    capped by the step's budget), never 2048 and 0; and a tail of 200 is dealt 100 and 100.

    Args:
        num_pending: prefill rows that could be scheduled now or soon.
        num_in_flight: prefill rows of the steps in flight.
        num_micro_batches: steps that may be in flight.
        minimum: do not cut finer than this; each step reads all weights once, whatever its size.
    """
    return max(minimum, -(-(num_pending + num_in_flight) // num_micro_batches))
