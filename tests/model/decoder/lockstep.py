"""All ranks of a procedure in one thread, one exchange after the other."""

from collections.abc import Sequence
from typing import TypeVar

from shoal.model.decoder.sampling.exchanges import Procedure

T = TypeVar("T")


def run_ranks(ranks: Sequence[Procedure[T]]) -> tuple[list[T], list[int]]:
    """What each rank returned, and the length of a rank's payload in every exchange: the same for all ranks."""
    lengths: list[int] = []
    received = None
    while True:
        payloads, results = [], []
        for rank in ranks:
            try:
                payloads.append(next(rank) if received is None else rank.send(received))
            except StopIteration as end:
                results.append(end.value)
        if results:
            assert not payloads, "some ranks are done, others go on"
            return results, lengths
        (length,) = {len(payload) for payload in payloads}
        lengths.append(length)
        received = payloads
