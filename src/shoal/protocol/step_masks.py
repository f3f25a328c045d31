"""Filling in a step's masks, which arrive after the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import structs

from shoal.protocol.language_messages import SampleRow

Masks = Callable[[], Sequence[bytes]]
"""Waits for and returns the masks of a step's guided samples, in order; may be called once."""


def awaited(samples: Sequence[SampleRow], masks: Masks | None) -> Sequence[SampleRow]:
    """The samples with the masks of guided ones filled in. Waits for the masks only if there are guided samples.

    Args:
        samples: the samples of a step.
        masks: gives one mask for each guided sample.
    """
    if not any(one.is_guided for one in samples):
        return samples
    assert masks is not None, "guided rows without a guide"
    rest = iter(masks())
    return [structs.replace(one, allowed=next(rest)) if one.is_guided else one for one in samples]
