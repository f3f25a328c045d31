"""The attention of a stage on a device that returns every result: computed by the processor, with its KV cache.

With such a provider, a cache on the device would travel to it and back, whole, in every layer of every step: 4 s a
token for SmolLM2 with 30,000 tokens of cache on OpenVINO. Queries, keys and values of a step's rows come back in any
case.

Shapes: T rows, P >= T rows with padding, Q fused width of queries, keys and values, O = H D.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort

from shoal.arrays import F32
from shoal.model.attention.interface import AttentionLayer, AttentionShape, AttentionStep
from shoal.model.decoder.device.attention import Attend
from shoal.model.decoder.device.sessions import DeviceSession
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.stage_attention import StageAttention
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Step
from shoal.protocol.stage_config import StageConfig


class ProcessorAttention:
    """Owns the cache, and the threads that compute on it."""

    sessions: tuple[DeviceSession, ...] = ()
    """Sessions on the device: none."""

    def __init__(self, source: WeightSource, config: StageConfig) -> None:
        """`source`: of the stage's weights."""
        self._attention = StageAttention(source, config, ForcedForm())
        span = range(config.first_layer, config.last_layer)
        self._layers = [
            ProcessorLayer(layer=layer, width=AttentionShape.of(source.config, number).out_width)
            for layer, number in zip(self._attention.layers, span, strict=True)
        ]

    def of_step(self, step: Step) -> Iterator[Attend]:
        """Each layer's attention, in order. Raises ValueError if the step does not fit the cache."""
        checked = self._attention.step(step)
        return (partial(layer.run, checked) for layer in self._layers)

    def touch(self) -> None:
        """See `StageAttention.touch`."""
        self._attention.touch()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorLayer:
    """The attention of one layer."""

    layer: AttentionLayer
    width: int
    """O"""

    def run(self, step: AttentionStep, qkv: ort.OrtValue) -> F32:
        """Attention's result [P, O] from qkv [P, Q]; padding rows are zeros.

        Mutates: the cache, at the slots of the step's rows.
        """
        qkv_PQ = np.asarray(qkv.numpy(), np.float32)
        attention_PO = np.zeros((len(qkv_PQ), self.width), np.float32)
        num_tokens = step.num_tokens
        self.layer.run(np.ascontiguousarray(qkv_PQ[:num_tokens]), attention_PO[:num_tokens], step)
        return attention_PO
