"""The interface between the life of a step (`stage`) and the arithmetic of its layers.

There are three implementations: the native extension's (`native_layers`), ONNX graphs with attention between them
(`onnx_layers`), which run without a compiler and are the reference for tests of the native one, and the same graphs on
a device (`device_layers`).

Shapes: T tokens in the step, R sampled rows, D hidden size, W values that rows carry (D except in a few families), V
vocabulary rows of the shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I32
from shoal.model.decoder.sampling.look_over import LookOver
from shoal.protocol.language_messages import Step

HEAD_ROWS = 64
"""Rows whose logits are computed at once, which bounds the logits buffer at 64 rows of the vocabulary."""

_WORTH_LEAVING = 8
"""With at least this many rows that nobody reads, a separate product for keys and values pays."""

SumOverShards = Callable[[F32], None]
"""Adds up [T, D] over the shards of a stage, in place."""


def rows_read(step: Step) -> I32 | None:
    """For each sequence, the number [B] of its last rows that contain all sampled ones. None if these are nearly all
    rows, or if some rows are more than tokens at their positions."""
    if step.num_tokens - len(step.samples) < _WORTH_LEAVING or has_more_than_tokens(step):
        return None
    starts = np.frombuffer(step.query_starts, "<i4")
    rows = np.array([sample.row for sample in step.samples], np.int32)
    firsts_B = starts[1:].copy()
    np.minimum.at(firsts_B, np.searchsorted(starts, rows, side="right") - 1, rows)
    counts_B = starts[1:] - firsts_B
    return counts_B if step.num_tokens - int(counts_B.sum()) >= _WORTH_LEAVING else None


def has_more_than_tokens(step: Step) -> bool:
    """Whether some rows have an adapter, belong to a picture, have other rotary positions, or see later rows."""
    return bool(step.adapters or step.pictures or step.turns or step.ends_seen)


class StageLayers(Protocol):
    """The embedding, layers and head that a stage or one shard of it holds."""

    @property
    def note(self) -> str | None:
        """What a user should know about how the layers are computed; None: nothing."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Resident bytes of weights."""
        ...

    @property
    def look_over(self) -> LookOver:
        """How the best tokens of rows of logits are found."""
        ...

    @property
    def alignment(self) -> bytes:
        """Attention weights that the latest step asked for: see `StepResult.alignment`."""
        ...

    def embed(self, token_ids_T: npt.NDArray[np.int32], x_TW: F32, sum_over_shards: SumOverShards | None) -> None:
        """Write the complete embedding of each token, and what else rows carry. Only in the first stage.

        Args:
            token_ids_T: of the whole vocabulary.
            x_TW: written to.
            sum_over_shards: None: the stage is not sharded.

        Raises: ValueError for an id outside the whole vocabulary; what `sum_over_shards` raises.
        """
        ...

    def run(self, x_TD: F32, step: Step, sum_over_shards: SumOverShards | None) -> F32:
        """Run all layers.

        Args:
            x_TD: input of the first layer, [T, W].
            step: describes the same rows.
            sum_over_shards: None: the stage is not sharded.

        Returns: the next stage's input, [T, W]; in the last stage nothing useful, as `logits` continues from there.
        Mutates: `x_TD`, and the KV cache's slots of the step's rows.
        Valid until: the next call.
        Raises: ValueError if the step does not fit the KV cache; what `sum_over_shards` raises.
        """
        ...

    def remember(self, slot: int, memory_PD: F32) -> None:
        """Store an encoder's output, [P, D], for sequences with this slot. Raises ValueError if there is no such
        slot."""
        ...

    def logits(self, rows: Sequence[int]) -> F32:
        """The logits [R, V] of some rows of the latest step, at most HEAD_ROWS. In the last stage only.

        Valid until: the next call.
        """
        ...

    def hidden(self, rows: Sequence[int]) -> F32:
        """The hidden states [R, D] after the final norm of some rows of the latest step, at most HEAD_ROWS.

        Only in the last stage; the same on every shard.

        Valid until: the next call.
        """
        ...

    def expert_rows(self) -> list[list[int]]:
        """For each layer, how many rows have chosen each expert so far; see `Stage`. Empty if they are not counted
        (ONNX form)."""
        ...

    def touch_kv(self) -> None:
        """Allocate the KV cache's memory now, not when steps write to it, for measurements."""
        ...
