"""The attention of a stage's layers over its KV cache, and each step's description for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from shoal.arrays import F32
from shoal.model.attention.interface import AttentionLayer, AttentionShape, AttentionStep, AttentionVectors
from shoal.model.attention.kv_storage import KvStorage, KvType, kv_dtype, whole_kv_dtype
from shoal.model.attention.paged_attention import NativeAttention, make_attention
from shoal.model.attention.rope import query_scales, rope_tables
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Step
from shoal.protocol.stage_config import StageConfig

if TYPE_CHECKING:
    from shoal import _native


class StageAttention:
    """Owns the KV cache and the compute threads of one stage. A shard without heads has neither."""

    def __init__(
        self, source: WeightSource, config: StageConfig, form: ForcedForm, pool: _native.ThreadPool | None = None
    ) -> None:
        """`source`: weights of the stage or shard. `pool`: the compute threads; None: threads of its own."""
        decoder = source.config
        self._attention = make_attention(
            num_threads=config.threads,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            max_context=config.num_positions,
            native=form.native,
            isa=form.isa,
            pool=pool,
        )
        self._decoder, self._rope = decoder, decoder.rope
        self.layers: list[AttentionLayer] = self._make_layers(source, config) if decoder.num_heads else []
        """The attention layers of the stage, in order."""

    @property
    def pool(self) -> _native.ThreadPool:
        """The compute threads, which only native attention has."""
        assert isinstance(self._attention, NativeAttention)
        return self._attention.pool

    def step(self, step: Step) -> AttentionStep:
        """Describe the step's rows, after copying the blocks that they need.

        Raises: ValueError if the step does not fit the KV cache, or rotates rows by positions that the model does not
        have.
        """
        if step.block_copies and self.layers:
            self._kv.copy_blocks(np.frombuffer(step.block_copies, "<i4").reshape(-1, 2))
        return self._attention.step(
            positions=np.frombuffer(step.positions, "<i4"),
            query_starts=np.frombuffer(step.query_starts, "<i4"),
            context_lens=np.frombuffer(step.context_lens, "<i4"),
            block_tables=np.frombuffer(step.block_tables, "<i4").reshape(step.num_sequences, -1),
            angles=self._angles(step) if step.turns and self.layers else None,
            ends_seen=np.frombuffer(step.ends_seen, "<i4") if step.ends_seen else None,
        )

    def _angles(self, step: Step) -> tuple[F32, F32]:
        """Cosine and sine [T, R]; each frequency is rotated by one of a row's positions."""
        axes_R = np.array(self._rope.axes, np.int64)
        turns_TA = np.frombuffer(step.turns, "<i4").reshape(step.num_tokens, -1)
        if not axes_R.size or turns_TA.min() < 0 or turns_TA.max() >= len(self._cos):
            raise ValueError("rows turn by positions that the model has not")
        turns_TR, pairs_R = turns_TA[:, axes_R], np.arange(len(axes_R))
        cos_TR, sin_TR = self._cos[turns_TR, pairs_R], self._sin[turns_TR, pairs_R]
        return np.ascontiguousarray(cos_TR), np.ascontiguousarray(sin_TR)

    def touch(self) -> None:
        """Allocate the KV cache's memory now."""
        if self.layers:
            self._kv.touch()

    def _make_layers(self, source: WeightSource, config: StageConfig) -> list[AttentionLayer]:
        decoder = source.config
        span = range(config.first_layer, config.last_layer)
        self._kv = KvStorage(
            decoder,
            first_layer=span.start,
            last_layer=span.stop,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            dtype=_kv_dtype(decoder, config),
        )
        own = [layer for layer in span if decoder.has_attention(layer)]
        ropes = {id(rope): rope for rope in map(decoder.layer_rope, own)}
        tables = {key: rope_tables(rope, config.max_context, config.num_positions) for key, rope in ropes.items()}
        nothing = np.empty((config.num_positions, 0), np.float32)
        self._cos, self._sin = tables.get(id(decoder.rope), (nothing, nothing))
        return [
            self._attention.layer(
                AttentionShape.of(decoder, layer),
                self._kv.keys(decoder.kv_source(layer)),
                self._kv.values(decoder.kv_source(layer)),
                *((nothing, nothing) if layer in decoder.no_rope_layers else tables[id(decoder.layer_rope(layer))]),
                self._with_scales(attention_vectors(source, layer, config.num_positions), layer),
            )
            for layer in own
        ]

    def _with_scales(self, vectors: AttentionVectors, layer: int) -> AttentionVectors:
        key_scales, value_scales = self._kv.scales(self._decoder.kv_source(layer))
        return replace(vectors, key_scales=key_scales, value_scales=value_scales)


def _kv_dtype(decoder: DecoderConfig, config: StageConfig) -> KvType:
    """An encoder's keys and values are needed for one step only: half precision would save no memory, and codes save
    time."""
    if not decoder.sees_all:
        return kv_dtype(config.precision, exact_activations=config.exact_activations)
    whole = whole_kv_dtype(decoder, config.precision, exact_activations=config.exact_activations)
    return whole if whole is np.uint8 else np.float32


def attention_vectors(source: WeightSource, layer: int, num_positions: int) -> AttentionVectors:
    """The vectors of a layer's attention, for positions below `num_positions`."""
    decoder, prefix = source.config, f"layers.{layer}."
    q_norm = k_norm = None
    if decoder.norms_rotated:
        q_norm, k_norm = source.vector(f"{prefix}q_norm"), source.vector(f"{prefix}k_norm")
    elif decoder.has_unit_norm(layer):
        q_norm = k_norm = np.ones(decoder.head_dim, np.float32)
    scaling = decoder.layer_query_scaling(layer)
    return AttentionVectors(
        sinks=source.vector(f"{prefix}sinks") if decoder.attention_sinks else None,
        q_norm=q_norm,
        k_norm=k_norm,
        query_scales=None if scaling is None else query_scales(scaling, num_positions),
    )
