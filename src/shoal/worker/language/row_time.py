"""The time that a stage takes for a single row, measured before it does anything else.

The head's patience starts from this value (core/recovery/patience). The first steps also touch weights and buffers for
the first time, so that requests need not wait for that.
"""

from __future__ import annotations

import time

import numpy as np

from shoal.model.open_stage import LanguageStage
from shoal.protocol.language_messages import SampleRow, Sampling, Step, StepId
from shoal.protocol.worker_messages import Generation

_NUM_STEPS = 2
"""The first step warms up."""


def measure_row(stage: LanguageStage) -> float:
    """Seconds of one row at position 0, in KV block 0 and state slot 0, which must not be in use. All shards of a stage
    must call it.

    Raises: as `Stage.process`.
    """
    zero, one = np.zeros(1, "<i4").tobytes(), np.ones(1, "<i4").tobytes()
    step = Step(
        step_id=StepId(0),
        generation=Generation(0),
        token_ids=zero,
        positions=zero,
        query_starts=zero + one,
        context_lens=one,
        block_tables=zero,
        samples=(SampleRow(row=0, token_index=0, sampling=Sampling(temperature=0.0)),),
        state_slots=np.array([-1, 0], "<i4").tobytes(),
    )
    x_TD = None if stage.is_first else np.zeros((1, stage.decoder.carried_width), np.float32)
    seconds = 0.0
    for _ in range(_NUM_STEPS):
        started_s = time.perf_counter()
        stage.process(step, x_TD)
        seconds = time.perf_counter() - started_s
    return seconds
