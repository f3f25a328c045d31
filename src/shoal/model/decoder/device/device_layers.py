"""A stage's layers on a device: the ONNX form's segments with attention between them.

Blocks and tables are the same as on processors, so that scheduler, shared prefixes and mixed pipelines need not tell
the two apart. If a provider keeps values in the device's memory, attention and its cache are there as well, and nothing
leaves the device between the first segment and the last. If all results of a run come back to the processor, attention
is computed there.

Shapes: T tokens in the step, P >= T with padding rows, R sampled rows, D hidden size, V vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from shoal.arrays import F32, I64, Array
from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import CapacityError, ConfigError
from shoal.model.attention.kv_storage import kv_bytes_per_token
from shoal.model.decoder.device.attention import DeviceAttention
from shoal.model.decoder.device.attention_graph import gather_graph
from shoal.model.decoder.device.padding import padded_count
from shoal.model.decoder.device.probes import device_form
from shoal.model.decoder.device.processor_attention import ProcessorAttention
from shoal.model.decoder.device.sessions import DeviceSession, device_floats
from shoal.model.decoder.embedding import Embedding, added_rows
from shoal.model.decoder.onnx.decoder_graph import build_segments
from shoal.model.decoder.onnx.form_check import check_onnx_form
from shoal.model.decoder.onnx.onnx_layers import load_embedding
from shoal.model.decoder.onnx.segment_builder import SegmentGraph
from shoal.model.decoder.sampling.look_over import look_over
from shoal.model.decoder.stage_layers import SumOverShards
from shoal.model.runtime_sessions import share_pool
from shoal.model.weights import WeightSource
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.language_messages import Step
from shoal.protocol.stage_config import StageConfig


class DeviceLayers:
    """Implements `StageLayers`."""

    look_over = staticmethod(look_over)

    def __init__(
        self,
        source: WeightSource,
        config: StageConfig,
        vocab_size: int,
        device: DeviceConfig,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Args:
            source: of the stage's weights.
            config: what to hold.
            vocab_size: tokens of the whole model.
            device: to compute on.
            on_progress: called with (done, total) segments.

        Raises:
            ConfigError: the device is missing, or the stage is sharded or has layers without an ONNX form.
            CapacityError: the stage does not fit the device's memory; the message says how many layers would.
            ModelLoadError: ONNX Runtime refuses a segment.
        """
        if config.part is not None:
            raise ConfigError(
                f"{device.name} can only compute whole stages: split over devices with pp and dp, not with tp or ep"
            )
        check_onnx_form(source.config, "leave --device out")
        share_pool(config.threads)
        self._embedding: Embedding | None = None
        self.weight_bytes = 0
        if config.first_layer == 0:
            self._embedding, self.weight_bytes = load_embedding(source, config, vocab_size)
        self._config, self._decoder, self._device = config, source.config, device
        self._keeps_values = PROVIDERS[device.provider].keeps_values
        self.alignment = b""
        report = on_progress or (lambda done, total: None)
        form = device_form(device)
        graphs = build_segments(source, config.first_layer, config.last_layer, config.precision, form=form)
        self._segments = self._load(graphs, report)
        self._attention = (
            DeviceAttention(source, config, device, form) if self._keeps_values else ProcessorAttention(source, config)
        )
        notes = (session.note for session in (*self._segments, *self._attention.sessions))
        self.note = next((note for note in notes if note), None)
        """The note of the first graph that has one; the other graphs are like it."""
        is_last = config.last_layer == source.config.num_layers
        self._head = self._segments.pop() if is_last else None
        self._gathers = {
            name: DeviceSession("gather", gather_graph(width, form), device, computes=False)
            for name, width in (self._head_widths() if self._keeps_values else {}).items()
        }
        self._end: dict[str, ort.OrtValue | Array] = {}
        """Input of the head in the latest step."""

    def expert_rows(self) -> list[list[int]]:
        """Empty: every expert computes every row, so nothing is counted."""
        return []

    def touch_kv(self) -> None:
        """See `StageLayers`."""
        self._attention.touch()

    def embed(self, token_ids_T: npt.NDArray[np.int32], x_TW: F32, sum_over_shards: SumOverShards | None) -> None:
        """See `StageLayers`. There are no other shards."""
        assert self._embedding is not None
        x_TW[:] = self._embedding.rows(token_ids_T)

    def run(self, x_TD: F32, step: Step, sum_over_shards: SumOverShards | None) -> F32:
        """See `StageLayers`. Runs every segment except the head."""
        if added_rows(step, self._decoder, self._config.first_layer, self._config.last_layer) is not None:
            raise ValueError("the ONNX form adds nothing to rows between layers")
        layers = self._attention.of_step(step)
        values: dict[str, ort.OrtValue | Array] = {"x": x_TD if self._keeps_values else _padded(x_TD)}
        for segment in self._segments:
            is_end = "qkv" not in segment.outputs
            outputs = segment.run(values, fetched=("x_out",) if is_end else ())
            if "x_out" in outputs:
                values["x"] = outputs["x_out"]
            if "qkv" in outputs:
                values["attention"] = next(layers)(outputs["qkv"])
        self._end = values if self._head is not None else {}
        return x_TD if self._head is not None else _array(values["x"])[: len(x_TD)]

    def remember(self, slot: int, memory_PD: F32) -> None:
        """See `StageLayers`. Never called, because models with an encoder have no ONNX form."""
        raise NotImplementedError

    def logits(self, rows: Sequence[int]) -> F32:
        """See `StageLayers`."""
        return self._of_rows(rows, "logits")

    def hidden(self, rows: Sequence[int]) -> F32:
        """See `StageLayers`."""
        return self._of_rows(rows, "hidden")

    def _of_rows(self, rows: Sequence[int], output: str) -> F32:
        assert self._head is not None
        wanted = np.zeros(padded_count(len(rows)), np.int64)
        wanted[: len(rows)] = rows
        gathered = {name: self._gathered(name, wanted) for name in self._head.inputs}
        return _array(self._head.run(gathered, fetched=("logits", "hidden"))[output])[: len(rows)]

    def _gathered(self, name: str, rows: I64) -> ort.OrtValue | Array:
        """Some rows of the head's input, gathered where that input is."""
        if not self._keeps_values:
            return _array(self._end[name])[rows]
        return self._gathers[name].run({"x": self._end[name], "rows": rows})["gathered"]

    def _head_widths(self) -> dict[str, int]:
        if self._head is None:
            return {}
        widths = {"x": self._decoder.hidden_size, "attention": self._decoder.num_heads * self._decoder.head_dim}
        return {name: widths[name] for name in self._head.inputs}

    def _load(self, graphs: Iterator[SegmentGraph], report: Callable[[int, int], None]) -> list[DeviceSession]:
        """Sessions of all segments, while they and their layers' cache fit. Raises CapacityError."""
        config, sessions = self._config, list[DeviceSession]()
        num_layers = config.last_layer - config.first_layer
        layer_kv = self._layer_kv_bytes()
        allowed, held = self._device.memory_bytes, 0
        for index, graph in enumerate(graphs):
            held += graph.builder.weight_bytes + (layer_kv if index < num_layers else 0)
            if allowed is not None and held > allowed:
                raise CapacityError(self._too_small(held, graphs, index, layer_kv))
            model = graph.builder.serialize()
            self.weight_bytes += graph.builder.weight_bytes
            graph.builder.clear()
            try:
                sessions.append(DeviceSession(graph.name, model, self._device))
            except CapacityError as error:
                raise CapacityError(f"{error}; {_way_out(index, num_layers)}") from error
            report(index + 1, num_layers + 1)
        return sessions

    def _layer_kv_bytes(self) -> int:
        """Bytes of a layer's keys and values on the device."""
        if not self._keeps_values:
            return 0
        token_bytes = kv_bytes_per_token(self._decoder, 1, device_floats(self._device))
        return token_bytes * self._config.num_blocks * self._config.block_size

    def _too_small(self, held: int, rest: Iterator[SegmentGraph], num_fitting: int, layer_kv: int) -> str:
        """The error message. `held`: bytes of the first `num_fitting` segments and one more."""
        num_layers = self._config.last_layer - self._config.first_layer
        for index, graph in enumerate(rest, num_fitting + 1):
            held += graph.builder.weight_bytes + (layer_kv if index < num_layers else 0)
            graph.builder.clear()
        return (
            f"{self._device.name} may take {self._device.memory_bytes or 0:,} bytes, but layers "
            f"{self._config.first_layer} to {self._config.last_layer - 1} take {held:,}"
            f"{' with their KV cache' if layer_kv else ''}; {_way_out(max(0, num_fitting - 1), num_layers)}"
        )


def _way_out(most: int, num_layers: int) -> str:
    if not most:
        return "not even one layer fits; take another device, or a smaller --kv-memory"
    return f"{most} of these {num_layers} layers fit: --split pp={most}:{num_layers - most} with the rest elsewhere"


def _padded(x_TD: F32) -> F32:
    """Rows with padding of zeros after them, [P, D]."""
    x_PD = np.zeros((padded_count(len(x_TD)), x_TD.shape[1]), np.float32)
    x_PD[: len(x_TD)] = x_TD
    return x_PD


def _array(value: ort.OrtValue | Array) -> F32:
    return np.asarray(value if isinstance(value, np.ndarray) else value.numpy(), np.float32)
