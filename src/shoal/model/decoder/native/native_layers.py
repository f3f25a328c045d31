"""A stage's layers in the native extension: one call a step, weights in their packed form.

Shapes: T tokens in the step, R sampled rows, D hidden size, V vocabulary rows of the shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from shoal import _native
from shoal.arrays import F32
from shoal.model.adapter.adapter import Adapter
from shoal.model.adapter.native_groups import NativeAdapters
from shoal.model.decoder.embedding import added_rows
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.native.carried_rows import CarriedRows
from shoal.model.decoder.native.native_shapes import (
    experts_shape,
    gate_cut,
    has_plain_end,
    latent_shape,
    layer_vectors,
    most_columns,
    streams_shape,
    unit_vectors,
)
from shoal.model.decoder.native.own_rows import unpack_own_rows
from shoal.model.decoder.native.stage_memories import StageMemories
from shoal.model.decoder.native.stage_recurrence import StageRecurrence
from shoal.model.decoder.sampling.look_over import NativeLookOver
from shoal.model.decoder.stage_attention import StageAttention
from shoal.model.decoder.stage_layers import HEAD_ROWS, SumOverShards, rows_read
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.packed.loader import PackedWeights
from shoal.model.recurrence.mamba import MambaConfig
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Step
from shoal.protocol.stage_config import StageConfig


class NativeLayers:
    """Implements `StageLayers`."""

    note = None

    def __init__(
        self,
        source: WeightSource,
        config: StageConfig,
        form: ForcedForm,
        vocab_size: int,
        on_progress: Callable[[int, int], None] | None = None,
        kept: KeptWeights | None = None,
        pool: _native.ThreadPool | None = None,
        unit_prefix: str = "",
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """
        Args:
            source: of the stage's or the shard's own weights.
            config: what to hold.
            form: by which instruction set it must be computed.
            vocab_size: tokens of the whole model.
            on_progress: called with (done, total) pieces of weights.
            kept: where packed weights are kept; None: they are packed into the process's own memory.
            pool: the compute threads; None: threads of its own.
            unit_prefix: tells these weights apart from others that are kept of the same model.
            adapters: that rows may have, by their numbers.
        """
        decoder = source.config
        self._decoder, self._vocab_size, self._first_id = decoder, vocab_size, config.first_token_id
        self._num_layers = config.last_layer - config.first_layer
        self._span = config.first_layer, config.last_layer
        self._attention = StageAttention(source, config, form, pool)
        self._recurrence = StageRecurrence(config, self.pool, isa=form.isa)
        self._memories = (
            StageMemories(decoder, decoder.encoder, config, self.pool, isa=form.isa) if decoder.encoder else None
        )
        weights = PackedWeights(source, config.precision, pool=self.pool, kept=kept, unit_prefix=unit_prefix)
        self._num_adapters = len(adapters)
        own_adapters = NativeAdapters(adapters, source, self.pool)
        is_first, is_last = config.first_layer == 0, config.last_layer == decoder.num_layers
        self._carried = CarriedRows(source, config, weights)
        self._embedding = weights.embedding() if is_first and vocab_size else None
        self._head = weights.head() if is_last and vocab_size else None
        self._leaves_rows = is_last and vocab_size > 0 and has_plain_end(decoder)
        self._final_norm = source.vector("final_norm") if is_last else np.empty(0, np.float32)
        self._norm_bias = source.vector("final_norm_bias") if is_last and decoder.norm_bias else None
        self._head_bias = source.vector("head_bias") if is_last and decoder.head_bias else None
        self._logits = np.empty((HEAD_ROWS if is_last else 0, decoder.vocab_size), np.float32)
        self._x = np.empty((0, decoder.carried_width), np.float32)
        self.look_over = NativeLookOver(self.pool, form.isa)
        """See `StageLayers`."""
        self.alignment = b""
        """See `StageLayers`."""
        self._max_rows = max(config.max_step_tokens, HEAD_ROWS)
        self._stage = _native.Stage(
            pool=self.pool,
            hidden_size=decoder.hidden_size,
            num_heads=decoder.num_heads,
            intermediate_size=most_columns(decoder),
            max_rows=self._max_rows,
            norm_epsilon=decoder.norm_epsilon,
            residual_scale=decoder.residual_scale,
            activation=decoder.activation,
            exact_activations=config.exact_activations,
            joins_qk_norm=decoder.joins_qk_norm,
            parts_qk_norm=decoder.parts_qk_norm,
            centers_norms=decoder.centers_norms,
            is_parallel=decoder.is_parallel,
            layers=self._load_layers(source, config, weights, own_adapters, on_progress or (lambda done, total: None)),
            experts=experts_shape(decoder),
            latent=latent_shape(decoder),
            streams=streams_shape(decoder),
            inputs=None if decoder.layer_inputs is None else (decoder.layer_inputs.width, decoder.num_layers),
            first_layer=config.first_layer,
            isa=form.isa,
        )
        self.weight_bytes = weights.num_bytes + own_adapters.num_bytes

    @property
    def pool(self) -> _native.ThreadPool:
        """The compute threads."""
        return self._attention.pool

    def expert_rows(self) -> list[list[int]]:
        """See `StageLayers`."""
        return [self._stage.expert_rows(layer) for layer in range(self._num_layers)]

    def touch_kv(self) -> None:
        """See `StageLayers`."""
        self._attention.touch()
        self._recurrence.touch()
        if self._memories is not None:
            self._memories.touch()

    def embed(self, token_ids_T: npt.NDArray[np.int32], x_TW: F32, sum_over_shards: SumOverShards | None) -> None:
        """See `StageLayers`."""
        if token_ids_T.min() < 0 or token_ids_T.max() >= self._vocab_size:
            raise ValueError(f"a token id is outside the vocabulary of {self._vocab_size}")
        has_more = self._decoder.carried_width > self._decoder.hidden_size
        x_TD = np.empty((len(token_ids_T), self._decoder.hidden_size), np.float32) if has_more else x_TW
        unpack_own_rows(self._embedding, token_ids_T - np.int32(self._first_id), x_TD)
        if self._decoder.embedding_scale != 1.0:
            x_TD *= np.float32(self._decoder.embedding_scale)
        if sum_over_shards is not None:
            sum_over_shards(x_TD)
        if has_more:
            looked_up_TI = self._carried.look_up(token_ids_T, sum_over_shards)
            self._stage.begin(self._carried.weights, x_TD, looked_up_TI, x_TW)

    def run(self, x_TD: F32, step: Step, sum_over_shards: SumOverShards | None) -> F32:
        """See `StageLayers`."""
        metadata = cast("_native.StepMetadata", self._attention.step(step))
        self._recurrence.describe(step, metadata)
        if step.adapters:
            metadata.set_adapters(np.frombuffer(step.adapters, "<i4"), self._num_adapters)
        if added := added_rows(step, self._decoder, *self._span):
            metadata.set_added(*added)
        memories = None if self._memories is None else self._memories.step(step)
        queries = None
        if step.alignment is not None and self._memories is not None:
            queries = self._memories.empty_queries(step.num_tokens)
        tails = rows_read(step) if self._leaves_rows else None
        self._stage.run(x_TD, metadata, sum_over_shards, memories, queries, tails)
        if queries is not None and step.alignment is not None and self._memories is not None:
            self.alignment = self._memories.align(queries, step.alignment)
        if self._head is not None and self._decoder.altup is not None:
            self._stage.finish(self._carried.weights, x_TD)
        self._x = x_TD
        return x_TD

    def remember(self, slot: int, memory_PD: F32) -> None:
        """See `StageLayers`."""
        assert self._memories is not None
        self._memories.remember(self._stage, slot, memory_PD, self._max_rows)

    def logits(self, rows: Sequence[int]) -> F32:
        """See `StageLayers`."""
        assert self._head is not None
        logits_RV = self._logits[: len(rows)]
        scale, softcap = self._decoder.logits_scale, self._decoder.final_softcap
        numbers = np.array(rows, np.int32)
        end = (self._final_norm, self._norm_bias, self._head, self._head_bias)
        self._stage.logits(self._x, numbers, *end, scale, softcap, logits_RV)
        return logits_RV

    def hidden(self, rows: Sequence[int]) -> F32:
        """See `StageLayers`."""
        hidden_RD = np.empty((len(rows), self._decoder.hidden_size), np.float32)
        self._stage.hidden(self._x, np.array(rows, np.int32), self._final_norm, self._norm_bias, hidden_RD)
        return hidden_RD

    def _load_layers(
        self,
        source: WeightSource,
        config: StageConfig,
        weights: PackedWeights,
        adapters: NativeAdapters,
        on_progress: Callable[[int, int], None],
    ) -> list[_native.StageLayer]:
        """Load the layers. Embedding and head count as one piece that is already loaded."""
        num_pieces = config.last_layer - config.first_layer + 1
        on_progress(1, num_pieces)
        layers: list[_native.StageLayer] = []
        decoder = self._decoder
        attention = iter(self._attention.layers)
        for layer in range(config.first_layer, config.last_layer):
            vectors = {name: source.vector(f"layers.{layer}.{name}") for name in layer_vectors(decoder, layer)}
            vectors |= unit_vectors(decoder, layer)
            if "router_norm" in vectors:  # its input has the length of rows with this many values
                vectors["router_norm"] *= np.float32(decoder.hidden_size**-0.5)
            experts, recurrence = decoder.layer_experts(layer), decoder.layer_recurrence(layer)
            own = next(attention, None) if decoder.has_attention(layer) else None
            layers.append(
                _native.StageLayer(
                    dict(weights.layer(layer)),
                    vectors,
                    cast("_native.AttentionLayer | None", own),
                    experts=() if experts is None else experts.held_in(layer),
                    recurrent=None if recurrence is None else self._recurrence.layer(source, layer, recurrence),
                    inputs=() if recurrence is None else recurrence.inputs,
                    output="o" if recurrence is None else recurrence.output,
                    cross=None if self._memories is None else self._memories.layers[layer - config.first_layer],
                    has_mixer=layer not in decoder.no_mixer_layers,
                    has_mlp=decoder.has_mlp(layer),
                    adapters=adapters.layer(layer),
                    shared_norm=recurrence.shared_norm if isinstance(recurrence, MambaConfig) else None,
                    gate_cut=gate_cut(source, layer),
                )
            )
            on_progress(1 + len(layers), num_pieces)
        return layers
