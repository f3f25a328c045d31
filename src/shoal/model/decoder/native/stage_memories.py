"""An encoder's output as the layers of a stage keep it: keys and values of a clip, computed once, in a slot. Native
form only.

Shapes: B sequences, P positions of a clip, D hidden size, M KV blocks of a clip.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from shoal import _native
from shoal.arrays import F32, I32
from shoal.model.attention.interface import AttentionShape
from shoal.model.attention.kv_storage import KvStorage, whole_block_size, whole_kv_dtype
from shoal.model.decoder_config import DecoderConfig, EncoderConfig
from shoal.protocol.language_messages import Alignment, Step
from shoal.protocol.stage_config import StageConfig


class StageMemories:
    """Owns the slots of one stage. A sequence without a slot attends over zeros in an additional slot."""

    def __init__(
        self, decoder: DecoderConfig, encoder: EncoderConfig, config: StageConfig, pool: _native.ThreadPool, *, isa: str
    ) -> None:
        """
        Args:
            decoder: of the whole model.
            encoder: whose output is kept.
            config: what to hold.
            pool: the compute threads.
            isa: instruction set to compute with; empty: the best.
        """
        self._num_slots, self._num_positions = config.num_memories, encoder.num_positions
        dtype = whole_kv_dtype(decoder, config.precision, exact_activations=config.exact_activations)
        self._block_size = whole_block_size(dtype, self._num_positions, config.block_size)
        shape = AttentionShape.of(decoder, config.first_layer)
        self._layer_span = range(config.first_layer, config.last_layer)
        self._num_heads, self._head_dim, self._scale = shape.num_heads, shape.head_dim, np.float32(shape.scale)
        self._group = shape.num_heads // shape.num_kv_heads
        self._blocks_per_slot = -(-self._num_positions // self._block_size)
        self._kv = KvStorage(
            decoder,
            first_layer=config.first_layer,
            last_layer=config.last_layer,
            num_blocks=self._num_blocks,
            block_size=self._block_size,
            dtype=dtype,
        )
        unrotated = np.empty((self._num_positions, 0), np.float32)
        self.layers = [
            _native.AttentionLayer(
                pool=pool,
                **asdict(replace(AttentionShape.of(decoder, layer), rotary_dim=0, sees_all=True)),
                keys=self._kv.keys(layer),
                values=self._kv.values(layer),
                key_scales=self._kv.scales(layer)[0],
                value_scales=self._kv.scales(layer)[1],
                cos=unrotated,
                sin=unrotated,
                isa=isa,
            )
            for layer in range(config.first_layer, config.last_layer)
        ]
        """The cross-attention layers of the stage, in order."""

    @property
    def _num_blocks(self) -> int:
        return (self._num_slots + 1) * self._blocks_per_slot

    def touch(self) -> None:
        """Allocate the slots' memory now."""
        self._kv.touch()

    def step(self, step: Step) -> _native.StepMetadata:
        """Describe a step's rows over their sequences' slots. Raises ValueError if there is no such slot.

        Rows count as the last positions of a clip, since they have no positions in it and see all of it. Neighboring
        sequences with the same slot, such as the hypotheses of a search, count as one, so that its keys and values are
        read once for many rows.
        """
        slots_B = np.frombuffer(step.memory_slots, "<i4")
        if not slots_B.size:
            slots_B = np.full(step.num_sequences, -1, "<i4")
        if slots_B.min() < -1 or slots_B.max() >= self._num_slots:
            raise ValueError(f"a memory slot is not below {self._num_slots}")
        slots_B, starts = _joined(slots_B, np.frombuffer(step.query_starts, "<i4"), self._num_positions)
        ends = np.repeat(starts[1:], np.diff(starts))
        positions = (np.arange(step.num_tokens, dtype=np.int32) - ends + np.int32(self._num_positions)).astype(np.int32)
        return self._metadata(positions, starts, np.where(slots_B < 0, self._num_slots, slots_B))

    def empty_queries(self, num_rows: int) -> F32:
        """Memory for the queries of all layers and this many rows, [layers * T, heads * D]."""
        return np.empty((len(self.layers) * num_rows, self._num_heads * self._head_dim), np.float32)

    def align(self, queries: F32, wanted: Alignment) -> bytes:
        """Attention weights of rows over their clip, from the wanted heads in this stage: see `StepResult.alignment`.

        Args:
            queries: of the step, in the shape of `empty_queries`.
            wanted: rows, heads and positions.

        Raises ValueError if the slot, a head or a position does not exist.
        """
        span, P = self._layer_span, wanted.num_positions
        if not 0 <= wanted.slot < self._num_slots or not 1 <= P <= self._num_positions:
            raise ValueError(f"attention over {P} positions of slot {wanted.slot}")
        if any(layer < 0 or not 0 <= head < self._num_heads for layer, head in wanted.heads):
            raise ValueError(f"a head is none of {self._num_heads}")
        queries_LTHD = queries.reshape(len(self.layers), -1, self._num_heads, self._head_dim)
        rows = slice(wanted.first_row, wanted.first_row + wanted.num_rows)
        blocks = slice(wanted.slot * self._blocks_per_slot, (wanted.slot + 1) * self._blocks_per_slot)
        parts: list[bytes] = []
        for layer, head in wanted.heads:
            if layer not in span:
                continue
            keys_DP = self._kv.keys_of(layer, blocks, head // self._group)[:, :P]
            scores_RP = queries_LTHD[layer - span.start, rows, head] @ keys_DP * self._scale
            weights_RP = np.exp(scores_RP - scores_RP.max(-1, keepdims=True))
            parts.append((weights_RP / weights_RP.sum(-1, keepdims=True)).astype("<f2").tobytes())
        return b"".join(parts)

    def remember(self, stage: _native.Stage, slot: int, memory_PD: F32, max_rows: int) -> None:
        """Compute a slot's keys and values for all layers, `max_rows` positions at a time."""
        if not 0 <= slot < self._num_slots:
            raise ValueError(f"memory slot {slot} is not below {self._num_slots}")
        for start in range(0, self._num_positions, max_rows):
            rows_TD = np.ascontiguousarray(memory_PD[start : start + max_rows])
            end = start + len(rows_TD)
            positions, starts = np.arange(start, end, dtype=np.int32), np.array([0, len(rows_TD)], np.int32)
            stage.remember(rows_TD, self._metadata(positions, starts, np.array([slot]), context=end))

    def _metadata(
        self, positions: I32, starts: I32, slots_B: np.ndarray, context: int | None = None
    ) -> _native.StepMetadata:
        contexts_B = np.full(len(slots_B), context or self._num_positions, np.int32)
        tables_BM = slots_B[:, None] * self._blocks_per_slot + np.arange(self._blocks_per_slot)
        return _native.StepMetadata(
            positions,
            np.ascontiguousarray(starts),
            contexts_B,
            tables_BM.astype(np.int32),
            self._num_blocks,
            self._block_size,
            self._num_positions,
        )


def _joined(slots_B: I32, starts_B1: I32, max_rows: int) -> tuple[I32, I32]:
    """Slots and starts after joining neighbors with the same slot, up to `max_rows` rows together."""
    kept: list[int] = []
    for index, slot in enumerate(slots_B.tolist()):
        is_same = kept and slots_B[kept[-1]] == slot and starts_B1[index + 1] - starts_B1[kept[-1]] <= max_rows
        if not is_same:
            kept.append(index)
    return slots_B[kept], np.append(starts_B1[kept], starts_B1[-1]).astype(np.int32)
