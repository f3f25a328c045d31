"""Which rows of a step the head reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.model.decoder.stage_layers import rows_read
from shoal.protocol.language_messages import SampleRow, Sampling, Step, StepId
from shoal.protocol.worker_messages import Generation


def step_of(lengths: list[int], sampled: list[int], **changes: Any) -> Step:
    """Sequences of so many rows, of which these of the step are sampled."""
    starts = np.cumsum([0, *lengths]).astype("<i4")
    return Step(
        step_id=StepId(1),
        generation=Generation(1),
        token_ids=bytes(4 * int(starts[-1])),
        positions=bytes(4 * int(starts[-1])),
        query_starts=starts.tobytes(),
        context_lens=np.array(lengths, "<i4").tobytes(),
        block_tables=bytes(4 * len(lengths)),
        samples=tuple(SampleRow(row=row, token_index=0, sampling=Sampling(temperature=0.0)) for row in sampled),
        **changes,
    )


def counts(lengths: list[int], sampled: list[int], **changes: Any) -> list[int] | None:
    found = rows_read(step_of(lengths, sampled, **changes))
    return None if found is None else found.tolist()


def test_each_sequence_is_read_from_its_first_sampled_row() -> None:
    assert counts([5, 0, 20, 30], [4, 20, 23]) == [1, 0, 5, 0]
    assert counts([40], []) == [0]


def test_all_are_read_where_few_are_left() -> None:
    assert counts([1] * 16, list(range(16))) is None
    assert counts([8], [7]) is None
    assert counts([9], [8]) == [1]
    assert counts([30], [2, 29]) is None


def test_rows_that_are_more_than_tokens_are_all_read() -> None:
    for name in ("adapters", "turns", "ends_seen"):
        assert counts([40], [39], **{name: bytes(4)}) is None
