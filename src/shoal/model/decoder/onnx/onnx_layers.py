"""A stage's layers as ONNX graphs, cut where attention and sums over shards take place. This form runs without the
native extension, and is the reference that the native layers are tested against.

Shapes: T tokens in the step, R sampled rows, D hidden size, V vocabulary rows of the shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32
from shoal.model.decoder.embedding import Embedding, added_rows
from shoal.model.decoder.forced_form import NATIVE, ForcedForm
from shoal.model.decoder.onnx.decoder_graph import build_segments, build_shard_segments
from shoal.model.decoder.onnx.form_check import check_onnx_form
from shoal.model.decoder.onnx.graph_builder import GraphForm
from shoal.model.decoder.onnx.segment_builder import Marker
from shoal.model.decoder.onnx.segment_sizes import count_segments
from shoal.model.decoder.onnx.segments import BoundSegments, Segment, load_segments
from shoal.model.decoder.onnx.stage_buffers import StageBuffers
from shoal.model.decoder.sampling.look_over import look_over
from shoal.model.decoder.stage_attention import StageAttention
from shoal.model.decoder.stage_layers import SumOverShards
from shoal.model.runtime_sessions import share_pool
from shoal.model.weights import WeightSource, in_own_memory
from shoal.protocol.language_messages import Step
from shoal.protocol.stage_config import StageConfig

_FEWEST_ROWS = 2
"""ONNX Runtime multiplies a single row with another kernel than several, which gives other bits. So a single row is
computed together with whatever row follows it in the buffer."""


class OnnxLayers:
    """Implements `StageLayers`."""

    note = None
    look_over = staticmethod(look_over)
    alignment = b""

    def __init__(
        self,
        source: WeightSource,
        config: StageConfig,
        vocab_size: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Args:
            source: of the stage's or the shard's own weights.
            config: what to hold.
            vocab_size: tokens of the whole model.
            on_progress: called with (done, total) segments.

        Raises:
            ConfigError: the model has layers that the ONNX form does not have.
        """
        decoder = source.config
        check_onnx_form(decoder, f"leave {NATIVE}=0 out, or install Shoal with its native extension")
        share_pool(config.threads)
        self._decoder, self._span = decoder, (config.first_layer, config.last_layer)
        self.weight_bytes = 0
        self._embedding: Embedding | None = None
        if config.first_layer == 0:
            self._embedding, self.weight_bytes = load_embedding(source, config, vocab_size)
        segments = self._load_segments(source, config, on_progress or (lambda done, total: None))
        self._buffers = StageBuffers(segments, decoder, config.max_step_tokens + _FEWEST_ROWS - 1)
        self._bind(segments, is_last=config.last_layer == decoder.num_layers)
        self._attention = StageAttention(source, config, ForcedForm(native=False))

    def expert_rows(self) -> list[list[int]]:
        """Empty: every expert computes every row, so nothing is counted."""
        return []

    def touch_kv(self) -> None:
        """See `StageLayers`."""
        self._attention.touch()

    def embed(self, token_ids_T: npt.NDArray[np.int32], x_TW: F32, sum_over_shards: SumOverShards | None) -> None:
        """See `StageLayers`."""
        assert self._embedding is not None
        x_TW[:] = self._embedding.rows(token_ids_T)
        if sum_over_shards is not None:
            sum_over_shards(x_TW)

    def run(self, x_TD: F32, step: Step, sum_over_shards: SumOverShards | None) -> F32:
        """See `StageLayers`. Runs every segment except the head."""
        if added_rows(step, self._decoder, *self._span) is not None:
            raise ValueError("the ONNX form adds nothing to rows between layers")
        num_tokens = step.num_tokens
        attention_step = self._attention.step(step)
        self._buffers.x[:num_tokens] = x_TD
        qkv, attention = self._buffers.qkv[:num_tokens], self._buffers.attention[:num_tokens]
        layers = iter(self._attention.layers)
        bindings = self._segments.on_rows(0, max(num_tokens, _FEWEST_ROWS))
        for (session, binding), (marker, partial) in zip(bindings, self._cuts, strict=True):
            session.run_with_iobinding(binding)
            if marker is Marker.ATTENTION:
                next(layers).run(qkv, attention, attention_step)
            elif marker is Marker.SUM and sum_over_shards is not None:
                sum_over_shards(partial[:num_tokens])
        return self._buffers.x_out[:num_tokens] if self._head is None else x_TD

    def remember(self, slot: int, memory_PD: F32) -> None:
        """See `StageLayers`. Never called, because models with an encoder have no ONNX form."""
        raise NotImplementedError

    def logits(self, rows: Sequence[int]) -> F32:
        """See `StageLayers`."""
        assert self._head is not None
        self._buffers.gather(rows)
        ((session, binding),) = self._head.on_rows(0, len(rows))
        session.run_with_iobinding(binding)
        return self._buffers.logits[: len(rows)]

    def hidden(self, rows: Sequence[int]) -> F32:
        """See `StageLayers`."""
        self.logits(rows)
        return self._buffers.hidden[: len(rows)]

    def _load_segments(
        self, source: WeightSource, config: StageConfig, on_progress: Callable[[int, int], None]
    ) -> list[Segment]:
        is_shard = config.part is not None
        is_parallel = source.config.is_parallel
        total = count_segments(config.last_layer - config.first_layer, is_shard=is_shard, is_parallel=is_parallel)
        build = build_shard_segments if is_shard else build_segments
        graphs = build(
            source,
            config.first_layer,
            config.last_layer,
            config.precision,
            form=GraphForm(exact_activations=config.exact_activations),
        )
        segments, weight_bytes = load_segments(graphs, on_loaded=lambda done: on_progress(done, total))
        self.weight_bytes += weight_bytes
        return segments

    def _bind(self, segments: list[Segment], *, is_last: bool) -> None:
        bound = self._buffers.bound
        self._head = BoundSegments(segments[-1:], bound[-1:]) if is_last else None
        if is_last:
            segments, bound = segments[:-1], bound[:-1]
        self._segments = BoundSegments(segments, bound)
        self._cuts = [
            (segment.marker, buffers["partial"] if segment.marker is Marker.SUM else buffers["x"])
            for segment, buffers in zip(segments, bound, strict=True)
        ]
        """The marker after each segment, and the buffer of its term of the sum."""


def load_embedding(source: WeightSource, config: StageConfig, vocab_size: int) -> tuple[Embedding, int]:
    """The embedding of a first stage, and its bytes."""
    matrix = in_own_memory(source.matrix("embedding", config.precision))
    scale = source.config.embedding_scale
    return Embedding(matrix, scale, first_id=config.first_token_id, vocab_size=vocab_size), matrix.num_bytes
