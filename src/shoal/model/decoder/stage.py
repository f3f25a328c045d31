"""One pipeline stage: its layers' segments, its KV cache and, at the ends, the embedding and the head.

Shapes: T tokens in the step, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from shoal.model.attention.interface import AttentionLayer, AttentionShape, AttentionStep
from shoal.model.attention.kv_storage import KvStorage
from shoal.model.attention.paged_attention import make_attention
from shoal.model.attention.rope import rope_tables
from shoal.model.decoder.decoder_graph import attention_width, build_segments, qkv_width
from shoal.model.decoder.embedding import Embedding
from shoal.model.decoder.sampling import sample_rows
from shoal.model.decoder.segments import Bindings, BoundSegments, Segment
from shoal.model.runtime_sessions import share_pool
from shoal.model.weights import Precision, WeightSource
from shoal.protocol.messages import LoadStage, SampledToken, SampleRow, Step

F32 = npt.NDArray[np.float32]
_FEWEST_PROMPT_ROWS = 2
"""ONNX Runtime multiplies a single row by another kernel than several, with other bits in the result. Prompt rows go
two at a time at least, the second being whatever is in the buffer, so that they come out the same in any chunk."""
_HEAD_ROWS = 64
"""Rows whose logits are computed at once: bounds the logits buffer at 64 rows of the vocabulary."""


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
        )


class Stage:
    """Runs steps through a contiguous range of layers. Not thread-safe; one step at a time."""

    def __init__(
        self, source: WeightSource, config: StageConfig, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Reads the stage's own weights and no others. `on_progress(done, total)` counts segments."""
        share_pool(config.threads)
        self.decoder = source.config
        self._config = config
        self.weight_bytes = 0
        """resident bytes of weights"""
        self._embedding = self._load_embedding(source) if self.is_first else None
        narrow, wide = self._load_segments(source, on_progress or (lambda done, total: None))
        self._allocate_buffers()
        self._bind(narrow, wide)
        self._layers = self._make_attention_layers()

    @property
    def is_first(self) -> bool:
        """Whether this stage owns the embedding."""
        return self._config.first_layer == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage owns the head and samples."""
        return self._config.last_layer == self.decoder.num_layers

    def process(self, step: Step, x_TD: F32 | None = None) -> F32 | tuple[SampledToken, ...]:
        """Run one step. The first stage embeds the step's tokens, every other takes `x_TD` from its predecessor.

        Returns: the sampled tokens in the last stage, else the hidden states [T, D] for the next.
        Valid until: the next `process`.
        Raises: ValueError when the step does not fit the KV cache.
        """
        num_tokens = step.num_tokens
        if self._embedding is not None:
            x_TD = self._embedding.rows(np.frombuffer(step.token_ids, "<i4"))
        assert x_TD is not None
        self._x[0][:num_tokens] = x_TD
        parts = self._parts(step)
        self._run_layers(step, parts)
        return self._sample(step.samples) if self.is_last else self._hand_over(num_tokens, parts)

    def _parts(self, step: Step) -> list[Bindings]:
        """What to run: the segments of output rows on the first rows of the batch, those of prompt rows on the rest."""
        num_outputs, num_tokens = step.num_output_tokens, step.num_tokens
        if self._prompt_segments is self._output_segments:
            return [self._output_segments.on_rows(0, num_tokens)]
        parts = [self._output_segments.on_rows(0, num_outputs)] if num_outputs else []
        if num_outputs < num_tokens:
            end = max(num_tokens, num_outputs + _FEWEST_PROMPT_ROWS)
            parts.append(self._prompt_segments.on_rows(num_outputs, end))
        return parts

    def _run_layers(self, step: Step, parts: Sequence[Bindings]) -> None:
        """Every part has sessions of its own; attention takes all rows at once."""
        attention_step = self._attention_step(step)
        qkv, attention = self._qkv[: step.num_tokens], self._attention_out[: step.num_tokens]
        for index, layer in enumerate(self._layers):
            for part in parts:
                session, binding = part[index]
                session.run_with_iobinding(binding)
            layer.run(qkv, attention, attention_step)

    def _hand_over(self, num_tokens: int, parts: Sequence[Bindings]) -> F32:
        for part in parts:
            session, binding = part[-1]
            session.run_with_iobinding(binding)
        return self._x_out[:num_tokens]

    def _sample(self, samples: Sequence[SampleRow]) -> tuple[SampledToken, ...]:
        """Finish the last layer and compute logits for the sampled rows only."""
        tokens: list[SampledToken] = []
        for start in range(0, len(samples), _HEAD_ROWS):
            rows = samples[start : start + _HEAD_ROWS]
            indices = [row.row for row in rows]
            self._head_x[: len(rows)] = self._residual[indices]
            self._head_attention[: len(rows)] = self._attention_out[indices]
            ((session, binding),) = self._head_segment.on_rows(0, len(rows))
            session.run_with_iobinding(binding)
            tokens += sample_rows(self._logits[: len(rows)], rows)
        return tuple(tokens)

    def _attention_step(self, step: Step) -> AttentionStep:
        return self._attention.step(
            positions=np.frombuffer(step.positions, "<i4"),
            query_starts=np.frombuffer(step.query_starts, "<i4"),
            context_lens=np.frombuffer(step.context_lens, "<i4"),
            block_tables=np.frombuffer(step.block_tables, "<i4").reshape(step.num_sequences, -1),
        )

    def _load_embedding(self, source: WeightSource) -> Embedding:
        matrix = source.matrix("embedding", self._config.precision)
        self.weight_bytes += matrix.num_bytes
        return Embedding(matrix, self.decoder.embedding_scale)

    def _load_segments(
        self, source: WeightSource, on_progress: Callable[[int, int], None]
    ) -> tuple[list[Segment], list[Segment]]:
        """The segments for few rows and those for many, the same objects where there is one kind only."""
        config, narrow, wide = self._config, list[Segment](), list[Segment]()
        total = config.last_layer - config.first_layer + 1
        for graph in build_segments(source, config.first_layer, config.last_layer, config.precision):
            narrow.append(Segment(graph.name, graph.narrow))
            wide_graph = graph.wide if config.wide_kernels else None
            wide.append(narrow[-1] if wide_graph is None else Segment(graph.name, wide_graph))
            self.weight_bytes += graph.weight_bytes * (1 if wide_graph is None else 2)
            on_progress(len(narrow), total)
        return narrow, wide

    def _allocate_buffers(self) -> None:
        rows, decoder = self._config.max_step_tokens + _FEWEST_PROMPT_ROWS - 1, self.decoder

        def buffer(num_rows: int, width: int) -> F32:
            return np.zeros((num_rows, width), np.float32)

        self._x = (buffer(rows, decoder.hidden_size), buffer(rows, decoder.hidden_size))
        self._qkv = buffer(rows, qkv_width(decoder))
        self._attention_out = buffer(rows, attention_width(decoder))
        if self.is_last:
            self._head_x = buffer(_HEAD_ROWS, decoder.hidden_size)
            self._head_attention = buffer(_HEAD_ROWS, attention_width(decoder))
            self._logits = buffer(_HEAD_ROWS, decoder.vocab_size)
        else:
            self._x_out = buffer(rows, decoder.hidden_size)

    def _bind(self, narrow: Sequence[Segment], wide: Sequence[Segment]) -> None:
        """The residual stream alternates between two buffers: a segment reads one and writes the other."""
        reads = [max(index - 1, 0) % 2 for index in range(len(narrow))]
        shared = {"qkv": self._qkv, "attention": self._attention_out}
        buffers = [shared | {"x": self._x[read], "x_out": self._x[1 - read]} for read in reads]
        self._residual = self._x[reads[-1]]
        if self.is_last:
            ends = {"x": self._head_x, "attention": self._head_attention, "logits": self._logits}
            self._head_segment = BoundSegments(narrow[-1:], [ends])
            narrow, wide, buffers = narrow[:-1], wide[:-1], buffers[:-1]
        else:
            buffers[-1]["x_out"] = self._x_out
        self._output_segments = BoundSegments(narrow, buffers)
        is_one_kind = all(a is b for a, b in zip(narrow, wide, strict=True))
        self._prompt_segments = self._output_segments if is_one_kind else BoundSegments(wide, buffers)

    def _make_attention_layers(self) -> list[AttentionLayer]:
        config, decoder = self._config, self.decoder
        self._attention = make_attention(
            num_threads=config.threads,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            max_context=config.max_context,
            native=config.native,
        )
        span = range(config.first_layer, config.last_layer)
        self._kv = KvStorage(
            decoder,
            first_layer=span.start,
            last_layer=span.stop,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
        )
        ropes = {id(rope): rope_tables(rope, config.max_context) for rope in map(decoder.layer_rope, span)}
        return [
            self._attention.layer(
                AttentionShape.of(decoder, layer),
                self._kv.keys(layer),
                self._kv.values(layer),
                *ropes[id(decoder.layer_rope(layer))],
            )
            for layer in span
        ]
