"""The attention of a stage's layers on a device: the sessions, and the cache in the device's memory.

Shapes: T rows, H query heads, D dimensions, O = H D.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnxruntime as ort

from shoal.arrays import F32, Array
from shoal.model.attention.interface import AttentionShape, AttentionVectors
from shoal.model.attention.paged_attention_numpy import NumpyStep
from shoal.model.attention.rope import rope_tables
from shoal.model.decoder.device.attention_graph import (
    ALL_ROWS,
    ONE_ROW,
    append_graph,
    attend_graph,
    lone_row_graph,
    zeros_graph,
)
from shoal.model.decoder.device.lone_rows import computes_lone_rows
from shoal.model.decoder.device.sessions import DeviceSession
from shoal.model.decoder.device.step_groups import RowGroup, row_groups, slots_of_rows
from shoal.model.decoder.onnx.graph_builder import GraphForm
from shoal.model.decoder.stage_attention import attention_vectors
from shoal.model.weights import WeightSource
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.language_messages import Step
from shoal.protocol.stage_config import StageConfig

Attend = Callable[[ort.OrtValue], ort.OrtValue | Array]
"""Computes one layer's attention from a step's queries, keys and values."""


class DeviceAttention:
    """Owns the cache and the sessions of all layers."""

    def __init__(self, source: WeightSource, config: StageConfig, device: DeviceConfig, form: GraphForm) -> None:
        """Create the cache and a session for every kind of layer. Raises as `DeviceSession`."""
        self._config, self._decoder, self._device, self._form = config, source.config, device, form
        self._sessions: dict[Hashable, DeviceSession] = {}
        self._tables: dict[int, tuple[F32, F32]] = {}
        self._layers = [self._layer(source, layer) for layer in range(config.first_layer, config.last_layer)]

    def of_step(self, step: Step) -> Iterator[Attend]:
        """Each layer's attention, in order. Raises ValueError if the step does not fit the cache."""
        config = self._config
        if step.block_copies:
            raise ValueError("a device has no beam search: it copies no blocks")
        if step.turns or step.ends_seen:
            raise ValueError("a device turns rows by their own position, and each sees what is before it")
        checked = NumpyStep(
            np.frombuffer(step.positions, "<i4"),
            np.frombuffer(step.query_starts, "<i4"),
            np.frombuffer(step.context_lens, "<i4"),
            np.frombuffer(step.block_tables, "<i4").reshape(step.num_sequences, -1),
            config.num_blocks,
            config.block_size,
            config.num_positions,
        )
        metadata = AttentionMetadata(checked, config.block_size)
        return (partial(layer.run, metadata) for layer in self._layers)

    def touch(self) -> None:
        """Does nothing, since the cache's memory is allocated at the beginning."""

    def _layer(self, source: WeightSource, layer: int) -> DeviceLayer:
        config, decoder = self._config, self._decoder
        shape, vectors = AttentionShape.of(decoder, layer), attention_vectors(source, layer, config.num_positions)
        norms = layer if vectors.q_norm is not None else None
        num_slots, width = config.num_blocks * config.block_size, shape.num_kv_heads * shape.head_dim
        zeros = self._session(("zeros", width), lambda: zeros_graph(num_slots, width, self._form), computes=False)
        kind = (shape, vectors.sinks is None, vectors.query_scales is None)
        lone_row = self._lone_row(shape, vectors)
        return DeviceLayer(
            shape=shape,
            vectors=vectors,
            angles=self._angles(layer) if shape.rotary_dim else None,
            append=self._session(
                ("append", kind, norms),
                lambda: append_graph(shape, vectors, self._form, gives_fresh=lone_row is not None),
            ),
            attend={
                group: self._session(
                    ("attend", kind, group), lambda group=group: attend_graph(shape, vectors, group, self._form)
                )
                for group in (ALL_ROWS, ONE_ROW)
            },
            lone_row=lone_row,
            keys=zeros.run({})["zeros"],
            values=zeros.run({})["zeros"],
        )

    def _lone_row(self, shape: AttentionShape, vectors: AttentionVectors) -> DeviceSession | None:
        if vectors.sinks is not None or not computes_lone_rows(self._device, shape, self._form):
            return None
        return self._session(("lone row", shape), lambda: lone_row_graph(shape, self._form))

    @property
    def sessions(self) -> Iterable[DeviceSession]:
        """The sessions of all layers."""
        return self._sessions.values()

    def _session(self, key: Hashable, build: Callable[[], bytes], *, computes: bool = True) -> DeviceSession:
        """A session for a graph; layers with the same key share it."""
        if key not in self._sessions:
            self._sessions[key] = DeviceSession("attention", build(), self._device, computes=computes)
        return self._sessions[key]

    def _angles(self, layer: int) -> tuple[F32, F32]:
        rope = self._decoder.layer_rope(layer)
        if id(rope) not in self._tables:
            self._tables[id(rope)] = rope_tables(rope, self._config.max_context, self._config.num_positions)
        return self._tables[id(rope)]


class AttentionMetadata:
    """What all layers share in one step."""

    def __init__(self, step: NumpyStep, block_size: int) -> None:
        self._step, self._block_size = step, block_size
        self._masks: dict[tuple[int, AttentionShape], F32] = {}
        self.positions_T = step.positions_T

    @cached_property
    def slots_T1(self) -> Array:
        """Slots where rows are kept."""
        return slots_of_rows(self._step, self._block_size)

    @cached_property
    def groups(self) -> tuple[RowGroup, ...]:
        """Groups of rows that attend together."""
        return tuple(row_groups(self._step, self._block_size))

    def mask(self, index: int, shape: AttentionShape) -> F32:
        """Mask of one group, for layers of this shape."""
        key = index, shape
        if key not in self._masks:
            self._masks[key] = self.groups[index].mask(shape)
        return self._masks[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLayer:
    """The attention of one layer."""

    shape: AttentionShape
    vectors: AttentionVectors
    angles: tuple[F32, F32] | None
    """Cosines and sines by position; None: nothing is rotated."""
    append: DeviceSession
    attend: Mapping[str, DeviceSession]
    """Sessions by the kind of group."""
    lone_row: DeviceSession | None
    """Session for a step with a single row; None: that is computed as other groups are."""
    keys: ort.OrtValue
    values: ort.OrtValue

    def run(self, step: AttentionMetadata, qkv: ort.OrtValue) -> ort.OrtValue | Array:
        """Attention's result [T, O], on the device.

        Mutates: the cache, at the slots of the step's rows.
        Raises: DeviceLost.
        """
        positions = step.positions_T
        values: dict[str, ort.OrtValue | Array] = {"qkv": qkv, "slots": step.slots_T1}
        cache = {"keys": self.keys, "values": self.values}
        if self.angles is not None:
            values |= {name: table[positions][:, None] for name, table in zip(("cos", "sin"), self.angles, strict=True)}
        if (scales := self.vectors.query_scales) is not None:
            values["factors"] = scales[positions][:, None, None]
        into = {"keys_out": self.keys, "values_out": self.values}
        fresh = self.append.run(values | cache, into=into)
        if self.lone_row is not None and len(positions) == 1 and (group := step.groups[0]).is_lone_row:
            return self.lone_row.run(fresh | cache | group.lone_row)["attention"]
        q = fresh["q"]
        attention: ort.OrtValue | Array = np.zeros((len(positions), self.shape.out_width), np.float32)
        for index, group in enumerate(step.groups):
            own = {"q": q, "rows": group.rows_G1, "context": group.context_BL, "into": attention}
            own["mask"] = step.mask(index, self.shape)
            if self.vectors.sinks is not None:
                own["sinks"] = group.sinks(self.vectors.sinks, self.shape)
            session = self.attend[ALL_ROWS if group.is_one_sequence else ONE_ROW]
            attention = session.run(own | cache)["attention"]
        return attention
