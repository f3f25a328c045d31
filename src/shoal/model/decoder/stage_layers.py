"""What a stage computes with: the seam between one step's life (`stage`) and the arithmetic of its layers.

Two implementations: the native extension's (`native_layers`), and ONNX graphs with attention between them
(`onnx_layers`), which run without a compiler and are the reference that the native one is tested against.

Shapes: T tokens in the step, R sampled rows, D hidden size, W values that rows carry (D but for a few families),
V vocabulary rows of the shard.
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
"""Rows whose logits are computed at once: bounds the logits buffer at 64 rows of the vocabulary."""

_WORTH_LEAVING = 8
"""rows that nobody reads: so many pay for a product of keys and values alone"""

SumOverShards = Callable[[F32], None]
"""adds up [T, D] over the shards of a stage, in place"""


def rows_read(step: Step) -> I32 | None:
    """How many of each sequence's last rows, [B], hold all that are sampled; None where that is nearly all of them, or
    where rows are more than tokens at their positions."""
    if step.num_tokens - len(step.samples) < _WORTH_LEAVING or has_more_than_tokens(step):
        return None
    starts = np.frombuffer(step.query_starts, "<i4")
    rows = np.array([sample.row for sample in step.samples], np.int32)
    firsts_B = starts[1:].copy()
    np.minimum.at(firsts_B, np.searchsorted(starts, rows, side="right") - 1, rows)
    counts_B = starts[1:] - firsts_B
    return counts_B if step.num_tokens - int(counts_B.sum()) >= _WORTH_LEAVING else None


def has_more_than_tokens(step: Step) -> bool:
    """Whether some of its rows have an adapter, belong to a picture, turn otherwise, or see other rows."""
    return bool(step.adapters or step.pictures or step.turns or step.ends_seen)


class StageLayers(Protocol):
    """The embedding, layers and head that a stage or one shard of it holds."""

    @property
    def note(self) -> str | None:
        """What a user should know of how it is computed; None: nothing."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Resident bytes of weights."""
        ...

    @property
    def look_over(self) -> LookOver:
        """How rows of logits are looked over."""
        ...

    @property
    def alignment(self) -> bytes:
        """What the latest step asked of its layers, see `StepResult.alignment`."""
        ...

    def embed(self, token_ids_T: npt.NDArray[np.int32], x_TW: F32, sum_over_shards: SumOverShards | None) -> None:
        """Writes the embedding of each token, whole, and what else rows carry. In the first stage only.

        Args:
            token_ids_T: of the whole vocabulary.
            x_TW: written to.
            sum_over_shards: None where the stage is not sharded.

        Raises: ValueError for an id outside the whole vocabulary; what `sum_over_shards` raises.
        """
        ...

    def run(self, x_TD: F32, step: Step, sum_over_shards: SumOverShards | None) -> F32:
        """Runs all layers.

        Args:
            x_TD: what the first layer takes, [T, W].
            step: the same rows.
            sum_over_shards: None where the stage is not sharded.

        Returns: what the next stage takes, [T, W]; in the last stage nothing of use, `logits` goes on from there.
        Mutates: `x_TD`, and the KV cache's slots of the step's rows.
        Valid until: the next call.
        Raises: ValueError when the step does not fit the KV cache; what `sum_over_shards` raises.
        """
        ...

    def remember(self, slot: int, memory_PD: F32) -> None:
        """Keeps what an encoder gave, [P, D], for sequences that have this slot. Raises ValueError for a slot that is
        not there."""
        ...

    def logits(self, rows: Sequence[int]) -> F32:
        """The logits [R, V] of some rows of the latest step, at most HEAD_ROWS. In the last stage only.

        Valid until: the next call.
        """
        ...

    def hidden(self, rows: Sequence[int]) -> F32:
        """The hidden states [R, D] of some rows of the latest step behind the final norm, at most HEAD_ROWS.

        In the last stage only, on every shard the same.

        Valid until: the next call.
        """
        ...

    def expert_rows(self) -> list[list[int]]:
        """Rows that chose each expert so far, by layer; see `Stage`. Empty where nobody counts (the ONNX form)."""
        ...

    def touch_kv(self) -> None:
        """Takes the KV cache's memory from the system now, not as steps write to it: for measuring."""
        ...
