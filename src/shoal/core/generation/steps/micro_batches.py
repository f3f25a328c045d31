"""How work is divided into micro-batches, so that the stages of a pipeline never wait for one giant step.

With as many steps in flight as there are stages, every stage is busy if the steps take equally long. The pipeline moves
at the pace of its largest step, and a smaller step beside it leaves a bubble in every stage.
"""

from __future__ import annotations


def decode_share(num_decoding: int, num_micro_batches: int) -> int:
    """The most decode rows of a step: an equal share of all decoding sequences, in flight or not."""
    return -(-num_decoding // num_micro_batches)


def prefill_share(num_pending: int, num_in_flight: int, num_micro_batches: int, minimum: int) -> int:
    """The most prefill rows of the next step, so that all steps in flight get equal shares.

    Rows in flight count as already divided: 16 prompts of 128 tokens on two stages become 1024 and 1024 rows (each
    capped by the step's budget), never 2048 and 0, and a remainder of 200 becomes 100 and 100.

    Args:
        num_pending: prefill rows that could be scheduled now or soon.
        num_in_flight: prefill rows of the steps in flight.
        num_micro_batches: steps that may be in flight.
        minimum: the smallest share; every step reads all weights once, whatever its size.
    """
    return max(minimum, -(-(num_pending + num_in_flight) // num_micro_batches))
