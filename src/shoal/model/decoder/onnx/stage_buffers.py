"""The memory of a stage's segments, and what each segment reads and writes.

Shapes: T rows of the flat batch, R rows whose logits are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.arrays import F32
from shoal.model.attention.interface import AttentionShape
from shoal.model.decoder.onnx.segments import Segment
from shoal.model.decoder.stage_layers import HEAD_ROWS
from shoal.model.decoder_config import DecoderConfig


class StageBuffers:
    """The residual stream and the sums over shards alternate between two buffers each: a segment reads one and writes
    the other."""

    def __init__(self, segments: Sequence[Segment], decoder: DecoderConfig, num_rows: int) -> None:
        """`segments`: all of the stage, in order; `decoder`: with a shard's own counts; `num_rows`: largest T."""
        hidden, shape = decoder.hidden_size, AttentionShape.of(decoder, 0)
        is_shard = any("partial" in segment.outputs for segment in segments)

        def buffer(width: int, rows: int = num_rows) -> F32:
            return np.zeros((rows, width), np.float32)

        self._x = (buffer(hidden), buffer(hidden))
        self._sums = (buffer(hidden), buffer(hidden)) if is_shard else ()
        self.qkv = buffer(shape.qkv_width)
        """[T, qkv width]"""
        self.attention = buffer(shape.out_width)
        """[T, attention width]"""
        self.bound: list[dict[str, F32]] = []
        """The buffers of each segment, by the names of its inputs and outputs."""
        self._lay_out(segments)
        end = self.bound[-1]
        self._end_sources: list[tuple[F32, F32]] = []
        if "logits" in segments[-1].outputs:
            for name in segments[-1].inputs:
                self._end_sources.append((buffer(end[name].shape[1], HEAD_ROWS), end[name]))
                end[name] = self._end_sources[-1][0]
            end["logits"] = buffer(decoder.vocab_size, HEAD_ROWS)
            end["hidden"] = buffer(hidden, HEAD_ROWS)
        else:
            end["x_out"] = buffer(hidden)

    @property
    def x(self) -> F32:
        """Input of the first segment, [T, hidden_size]."""
        return self._x[0]

    @property
    def x_out(self) -> F32:
        """Input of the next stage, [T, hidden_size]."""
        return self.bound[-1]["x_out"]

    @property
    def logits(self) -> F32:
        """Logits [R, vocab_size], in the last stage."""
        return self.bound[-1]["logits"]

    @property
    def hidden(self) -> F32:
        """Hidden states [R, hidden_size] after the final norm, in the last stage."""
        return self.bound[-1]["hidden"]

    def gather(self, rows: Sequence[int]) -> None:
        """Copy some rows of the flat batch, at most HEAD_ROWS, to the head's input."""
        for target, source in self._end_sources:
            target[: len(rows)] = source[rows]

    def _lay_out(self, segments: Sequence[Segment]) -> None:
        x, total = 0, 0
        for segment in segments:
            buffers = {"x": self._x[x], "x_out": self._x[1 - x], "qkv": self.qkv, "attention": self.attention}
            if self._sums:
                buffers |= {"delta": self._sums[total], "partial": self._sums[1 - total]}
            self.bound.append(buffers)
            x ^= "x_out" in segment.outputs
            total ^= "partial" in segment.outputs
