"""One pipeline stage or one shard of it: its layers' segments, its KV cache and, at the ends, embedding and head.

Shapes: T tokens in the step, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from shoal.core.collectives import ProcessGroup
from shoal.core.plan import ShardPart
from shoal.model.allocator import compact_loading
from shoal.model.attention.interface import Attention, AttentionLayer, AttentionShape, AttentionStep
from shoal.model.attention.kv_storage import KvStorage
from shoal.model.attention.paged_attention import make_attention
from shoal.model.attention.rope import rope_tables
from shoal.model.decoder.decoder_graph import Marker, build_segments, build_shard_segments, count_segments
from shoal.model.decoder.embedding import Embedding
from shoal.model.decoder.exchanges import group_exchange, run_exchange
from shoal.model.decoder.sampling import sample_rows
from shoal.model.decoder.segments import Bindings, BoundSegments, Segment, load_segments
from shoal.model.decoder.shard_sampling import sample_shard
from shoal.model.decoder.stage_buffers import HEAD_ROWS, StageBuffers
from shoal.model.runtime_sessions import share_pool
from shoal.model.shard_source import ShardSource
from shoal.model.weights import Precision, WeightSource, in_own_memory
from shoal.protocol.messages import LoadStage, SampledToken, SampleRow, Step

F32 = npt.NDArray[np.float32]
_FEWEST_PROMPT_ROWS = 2
"""ONNX Runtime multiplies a single row by another kernel than several, with other bits in the result. Prompt rows go
two at a time at least, the second being whatever is in the buffer, so that they come out the same in any chunk."""
_COLLECTIVE_TIMEOUT_S = 600.0
"""How long the other shards may take for their part of a layer before they count as lost. Death is noticed at once, and
which worker hangs is for the head to decide (core/recovery/patience); this only bounds the wait where the head does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What one stage holds and how much of everything it may use."""

    first_layer: int
    last_layer: int
    """exclusive"""
    precision: Precision
    threads: int
    num_blocks: int
    """KV blocks"""
    block_size: int
    """tokens in a KV block"""
    max_step_tokens: int
    """rows of the largest flat batch"""
    max_context: int
    """longest sequence in tokens"""
    wide_kernels: bool = True
    """a second copy of 4-bit weights, packed for steps of many rows: prefill is faster and exact, for memory"""
    exact_activations: bool = False
    """no 8-bit activations anywhere: slower, but two ways to compute the same then agree but for the order of sums"""
    part: ShardPart | None = None
    """of every matrix; None: all of it"""
    native: bool | None = None
    """attention kernel: None takes the native one where it is installed, False the NumPy one"""

    @classmethod
    def of(cls, load: LoadStage) -> StageConfig:
        """What a worker is told to load."""
        return cls(
            first_layer=load.first_layer,
            last_layer=load.last_layer,
            precision=cast(Precision, load.precision),
            threads=load.threads,
            num_blocks=load.num_blocks,
            block_size=load.block_size,
            max_step_tokens=load.max_step_tokens,
            max_context=load.max_context,
            wide_kernels=load.wide_kernels,
            exact_activations=load.exact_activations,
            part=ShardPart(kv_heads=load.kv_heads, columns=load.columns, vocabulary=load.vocabulary)
            if load.num_shards > 1
            else None,
        )


class Stage:
    """Runs steps through a contiguous range of layers, together with the other shards where it is one of several.

    Not thread-safe; one step at a time.
    """

    def __init__(
        self,
        source: WeightSource,
        config: StageConfig,
        on_progress: Callable[[int, int], None] | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        """Reads the stage's own weights and no others.

        Args:
            source: the whole model's weights.
            config: what to hold; with `part`, this is one shard of several.
            on_progress: called with (done, total) segments.
            group: all shards of the stage, where there are several. They must run the same steps.
        """
        share_pool(config.threads)
        self._config = config
        self._group = group
        self.vocab_size = source.config.vocab_size
        """of the whole model"""
        source = source if config.part is None else ShardSource(source, config.part)
        self.decoder = source.config
        """with this shard's own counts of heads, columns and vocabulary rows"""
        self.weight_bytes = 0
        """resident bytes of weights"""
        with compact_loading():
            self._embedding = self._load_embedding(source) if self.is_first else None
            narrow, wide = self._load_segments(source, on_progress or (lambda done, total: None))
        self._buffers = StageBuffers(narrow, self.decoder, config.max_step_tokens + _FEWEST_PROMPT_ROWS - 1)
        self._bind(narrow, wide)
        self._attention = self._make_attention()
        self._layers = self._make_attention_layers() if self.decoder.num_heads else []

    @property
    def is_first(self) -> bool:
        """Whether this stage owns the embedding."""
        return self._config.first_layer == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage owns the head and samples."""
        return self._config.last_layer == self.decoder.num_layers

    def touch_kv(self) -> None:
        """Take the KV cache's memory from the system now, not as steps write to it: for measuring."""
        if self._layers:
            self._kv.touch()

    def process(self, step: Step, x_TD: F32 | None = None) -> F32 | tuple[SampledToken, ...]:
        """Run one step. The first stage embeds the step's tokens, every other takes `x_TD` from its predecessor.

        Returns: the sampled tokens in the last stage, else the hidden states [T, D] for the next; on every shard.
        Valid until: the next `process`.
        Raises: ValueError when the step does not fit the KV cache, WorkerLost when another shard is gone.
        """
        num_tokens = step.num_tokens
        first_x_TD = self._buffers.x[:num_tokens]
        if self._embedding is None:
            assert x_TD is not None
            first_x_TD[:] = x_TD
        else:
            first_x_TD[:] = self._embedding.rows(np.frombuffer(step.token_ids, "<i4"))
            self._sum_over_shards(first_x_TD)
        parts = self._parts(step)
        self._run_layers(step, parts)
        return self._sample(step.samples) if self.is_last else self._hand_over(num_tokens, parts)

    def _parts(self, step: Step) -> list[Bindings]:
        """What to run: the segments of output rows on the first rows of the batch, those of prompt rows on the rest."""
        num_outputs, num_tokens = step.num_output_tokens, step.num_tokens
        if num_outputs == num_tokens:
            return [self._output_segments.on_rows(0, num_tokens)]
        if self._prompt_segments is self._output_segments:
            return [self._output_segments.on_rows(0, max(num_tokens, _FEWEST_PROMPT_ROWS))]
        parts = [self._output_segments.on_rows(0, num_outputs)] if num_outputs else []
        parts.append(self._prompt_segments.on_rows(num_outputs, max(num_tokens, num_outputs + _FEWEST_PROMPT_ROWS)))
        return parts

    def _run_layers(self, step: Step, parts: Sequence[Bindings]) -> None:
        """Every part has sessions of its own; attention and sums over shards take all rows at once."""
        attention_step = self._attention_step(step)
        qkv, attention = self._buffers.qkv[: step.num_tokens], self._buffers.attention[: step.num_tokens]
        layers = iter(self._layers)
        for index, (marker, partial) in enumerate(self._cuts):
            for part in parts:
                session, binding = part[index]
                session.run_with_iobinding(binding)
            if marker is Marker.ATTENTION:
                next(layers).run(qkv, attention, attention_step)
            else:
                self._sum_over_shards(partial[: step.num_tokens])

    def _sum_over_shards(self, x: F32) -> None:
        if self._group is not None:
            self._group.all_reduce(x, timeout_s=_COLLECTIVE_TIMEOUT_S)

    def _hand_over(self, num_tokens: int, parts: Sequence[Bindings]) -> F32:
        for part in parts:
            session, binding = part[-1]
            session.run_with_iobinding(binding)
        return self._buffers.x_out[:num_tokens]

    def _sample(self, samples: Sequence[SampleRow]) -> tuple[SampledToken, ...]:
        """Finish the last layer and compute logits for the sampled rows only."""
        tokens: list[SampledToken] = []
        for start in range(0, len(samples), HEAD_ROWS):
            rows = samples[start : start + HEAD_ROWS]
            self._buffers.gather([row.row for row in rows])
            ((session, binding),) = self._head_segment.on_rows(0, len(rows))
            session.run_with_iobinding(binding)
            tokens += self._draw(self._buffers.logits[: len(rows)], rows)
        return tuple(tokens)

    def _draw(self, logits_RV: F32, rows: Sequence[SampleRow]) -> list[SampledToken]:
        part, group = self._config.part, self._group
        if part is None or group is None:
            return sample_rows(logits_RV, rows)
        sampling = sample_shard(logits_RV, rows, first_id=part.vocabulary[0], vocab_size=self.vocab_size)
        return run_exchange(sampling, group_exchange(group, timeout_s=_COLLECTIVE_TIMEOUT_S))

    def _attention_step(self, step: Step) -> AttentionStep:
        return self._attention.step(
            positions=np.frombuffer(step.positions, "<i4"),
            query_starts=np.frombuffer(step.query_starts, "<i4"),
            context_lens=np.frombuffer(step.context_lens, "<i4"),
            block_tables=np.frombuffer(step.block_tables, "<i4").reshape(step.num_sequences, -1),
        )

    def _load_embedding(self, source: WeightSource) -> Embedding:
        matrix = in_own_memory(source.matrix("embedding", self._config.precision))
        self.weight_bytes += matrix.num_bytes
        first_id = self._config.part.vocabulary[0] if self._config.part else 0
        return Embedding(matrix, self.decoder.embedding_scale, first_id=first_id, vocab_size=self.vocab_size)

    def _load_segments(
        self, source: WeightSource, on_progress: Callable[[int, int], None]
    ) -> tuple[list[Segment], list[Segment]]:
        config, is_shard = self._config, self._config.part is not None
        total = count_segments(config.last_layer - config.first_layer, is_shard=is_shard)
        build = build_shard_segments if is_shard else build_segments
        graphs = build(
            source,
            config.first_layer,
            config.last_layer,
            config.precision,
            exact_activations=config.exact_activations,
        )
        narrow, wide, weight_bytes = load_segments(
            graphs, wide_kernels=config.wide_kernels, on_loaded=lambda done: on_progress(done, total)
        )
        self.weight_bytes += weight_bytes
        return narrow, wide

    def _bind(self, narrow: Sequence[Segment], wide: Sequence[Segment]) -> None:
        bound = self._buffers.bound
        self._cuts = [
            (segment.marker, buffers["partial"] if segment.marker is Marker.SUM else buffers["x"])
            for segment, buffers in zip(narrow[:-1], bound[:-1], strict=True)
        ]
        """what follows each segment but the last, and the term of the sum that it wrote"""
        if self.is_last:
            self._head_segment = BoundSegments(narrow[-1:], bound[-1:])
            narrow, wide, bound = narrow[:-1], wide[:-1], bound[:-1]
        self._output_segments = BoundSegments(narrow, bound)
        is_one_kind = all(a is b for a, b in zip(narrow, wide, strict=True))
        self._prompt_segments = self._output_segments if is_one_kind else BoundSegments(wide, bound)

    def _make_attention(self) -> Attention:
        config = self._config
        return make_attention(
            num_threads=config.threads,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            max_context=self._num_positions,
            native=config.native,
        )

    @property
    def _num_positions(self) -> int:
        """Of the longest sequence that the KV cache can hold. A file may claim a context of any length, for which
        rotary tables would be made."""
        return min(self._config.max_context, self._config.num_blocks * self._config.block_size)

    def _make_attention_layers(self) -> list[AttentionLayer]:
        config, decoder = self._config, self.decoder
        span = range(config.first_layer, config.last_layer)
        self._kv = KvStorage(
            decoder,
            first_layer=span.start,
            last_layer=span.stop,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
        )
        ropes = {
            id(rope): rope_tables(rope, config.max_context, self._num_positions)
            for rope in map(decoder.layer_rope, span)
        }
        return [
            self._attention.layer(
                AttentionShape.of(decoder, layer),
                self._kv.keys(layer),
                self._kv.values(layer),
                *ropes[id(decoder.layer_rope(layer))],
            )
            for layer in span
        ]
