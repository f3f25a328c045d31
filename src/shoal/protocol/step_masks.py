"""A step's masks, which come behind it, put where its samples have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import structs

from shoal.protocol.language_messages import SampleRow

Masks = Callable[[], Sequence[bytes]]
"""what the guided samples of a step may draw, in order; waits for it, and may be called once"""


def awaited(samples: Sequence[SampleRow], masks: Masks | None) -> Sequence[SampleRow]:
    """The samples, those that are guided with what they may draw, once that is known. Where none is, nothing is asked.

    Args:
        samples: of a step.
        masks: as many as samples are guided.
    """
    if not any(one.is_guided for one in samples):
        return samples
    assert masks is not None, "guided rows without a guide"
    rest = iter(masks())
    return [structs.replace(one, allowed=next(rest)) if one.is_guided else one for one in samples]
