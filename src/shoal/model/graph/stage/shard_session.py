"""One shard of a stage: its segments in ONNX Runtime sessions, and the collectives between them."""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
import onnx
import onnxruntime as ort

from shoal.arrays import F32, U8, Array
from shoal.core.collectives import ProcessGroup
from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import CapacityError, ModelLoadError, RequestError, WorkerLost
from shoal.model.device.failures import is_out_of_memory
from shoal.model.device.opening import check_nodes
from shoal.model.graph.file.value_types import output_type
from shoal.model.graph.stage.device_faults import avoid_faults
from shoal.model.graph.stage.ort_values import as_array, to_value
from shoal.model.graph.stage.run_limit import RunLimit
from shoal.model.graph.stage.segments import Gathering, GraphSegment, Reduction, cut_at_markers, segment_model
from shoal.model.graph.stage.session import RUNTIME_ERRORS, compute_options, refusing, runtime_reason
from shoal.model.graph.stage.stage_model import model_bytes
from shoal.model.runtime_sessions import start_session
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.stage_interface import StageInput, StageOutput

_AGREEMENT_TIMEOUT_S = 30.0
"""How long the other shards may take to fail after this one failed."""
_FAILURE = struct.Struct("<cI")
"""What a shard that cannot continue sends to the others: a letter and the marker's number. No tensor's slice has five
bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Asks for the sum over all shards, which replaces this term."""

    x: F32
    """flat"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """Asks for every shard's slice."""

    part: U8
    """This shard's slice."""
    out: Sequence[U8]
    """Where to put the slices, one for each shard."""


Collective = Sum | Gather


class ShardSegments:
    """The segments of a shard's model, in order. Use from one thread at a time."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: Sequence[StageInput],
        outputs: Sequence[StageOutput],
        *,
        folder: Path,
        threads: int,
        device: DeviceConfig | None = None,
    ) -> None:
        """Load all segments.

        Args:
            model: for the shard's rank, with markers.
            inputs: of the stage.
            outputs: of the stage.
            folder: of the model's external data.
            threads: compute threads, >= 1.
            device: what to compute on; None: the processor. Values that segments pass to each other stay on it.

        Raises:
            ModelLoadError: ONNX Runtime cannot load a segment; one line.
            ConfigError: the device is missing, or can compute no node of a segment.
            CapacityError: the shard does not fit the device's memory.
        """
        cut = cut_at_markers(model)
        self._device = device
        self.weight_bytes = model_bytes(model)
        self._dtypes = {taken.spec.name: taken.spec.dtype for taken in inputs}
        self._outputs = [given.spec.name for given in outputs]
        self._markers = cut.markers
        self._limit = RunLimit()
        self._segments: list[_LoadedSegment] = []
        types = {value.name: value.type for value in model.graph.input}
        fetched = {*self._outputs, *(marker.source for marker in cut.markers)}
        for segment, marker in zip(cut.segments, (*cut.markers, None), strict=True):
            loaded = _LoadedSegment(
                model, segment, types, folder=folder, threads=threads, device=device, fetched=fetched
            )
            types |= loaded.output_types
            self._segments.append(loaded)
            if marker is not None:
                types[marker.result] = _result_type(types[marker.source], marker)

    @property
    def note(self) -> str | None:
        """What a user should know about how segments are computed; None: nothing."""
        notes = [f"segment {index}: {one.note}" for index, one in enumerate(self._segments) if one.note]
        return "; ".join(notes) or None

    def run(
        self, tensors: Mapping[str, Array], limit_s: float | None = None
    ) -> Generator[Collective, None, dict[str, Array]]:
        """Compute the stage's outputs, yielding whenever the other shards are needed.

        Args:
            tensors: by name.
            limit_s: when to give up; None: never.

        Raises:
            InvalidRequest: ONNX Runtime cannot run a segment on these tensors.
            DeadlineExceeded: the run took longer than `limit_s`.
        """
        with self._limit.run(limit_s) as options:
            return (yield from self._run(tensors, options))

    def _run(
        self, tensors: Mapping[str, Array], options: ort.RunOptions
    ) -> Generator[Collective, None, dict[str, Array]]:
        with refusing(self._device):
            values = {name: to_value(tensors[name], dtype) for name, dtype in self._dtypes.items()}
        for segment, marker in zip(self._segments, (*self._markers, None), strict=True):
            segment.run(values, options)
            match marker:
                case Reduction():
                    values[marker.result] = yield from _reduce(values, marker)
                case Gathering():
                    values[marker.result] = yield from _gather(values, marker)
                case None:
                    pass
                case _:
                    assert_never(marker)
        with refusing():
            return {name: as_array(values[name]) for name in self._outputs}


class GraphShard:
    """Runs one shard of a stage together with the other shards of its group. Use from one thread at a time."""

    def __init__(self, segments: ShardSegments, group: ProcessGroup, *, timeout_s: float) -> None:
        """`timeout_s`: how long the other shards may take between two collectives before they count as lost."""
        self._segments = segments
        self._group = group
        self._timeout_s = timeout_s

    def run(self, tensors: Mapping[str, Array], limit_s: float | None = None) -> dict[str, Array]:
        """Compute the stage's outputs; all shards must be given the same tensors and limits.

        Raises:
            InvalidRequest: ONNX Runtime cannot run the stage on these tensors, on any shard; one line with its reason.
            DeadlineExceeded: the run took longer than `limit_s`.
            WorkerLost: a shard is gone, or did not fail when this one did.
            RemoteProtocolError: a shard is at another place in the graph.
        """
        steps = self._segments.run(tensors, limit_s)
        num_done = 0
        try:
            while True:
                self._perform(next(steps))
                num_done += 1
        except StopIteration as end:
            return end.value
        except RequestError:
            self._agree_on_failure(num_done)
            raise

    def _perform(self, wanted: Collective) -> None:
        match wanted:
            case Sum(x=x):
                self._group.all_reduce(x, timeout_s=self._timeout_s)
            case Gather(part=part, out=out):
                self._group.all_gather(part.data, [piece.data for piece in out], timeout_s=self._timeout_s)
            case _:
                assert_never(wanted)

    def _agree_on_failure(self, num_done: int) -> None:
        """Check that all shards failed. They read the same tensors, so a shard that does not fail would answer
        wrongly."""
        own = _FAILURE.pack(b"!", num_done)
        seen = [bytearray(_FAILURE.size) for _ in range(self._group.size)]
        self._group.all_gather(own, seen, timeout_s=_AGREEMENT_TIMEOUT_S)
        for rank, failure in enumerate(seen):
            if failure != own:
                raise WorkerLost(f"shard {rank} did not fail where shard {self._group.rank} did")


class _LoadedSegment:
    """One segment's session; none if the segment has no nodes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        segment: GraphSegment,
        input_types: Mapping[str, onnx.TypeProto],
        *,
        folder: Path,
        threads: int,
        device: DeviceConfig | None,
        fetched: AbstractSet[str],
    ) -> None:
        """`fetched`: values that are wanted in the processor's memory."""
        self._inputs = segment.inputs
        self._outputs = segment.outputs
        self._device = device
        self._session = None
        self.note: str | None = None
        binding = "cpu" if device is None else PROVIDERS[device.provider].binding
        self._memory = ["cpu" if name in fetched else binding for name in segment.outputs]
        self.output_types: dict[str, onnx.TypeProto] = {}
        if segment.outputs:
            options = compute_options(threads)
            if device is not None:
                avoid_faults(options, model, device)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
            try:
                content = segment_model(model, segment, input_types).SerializeToString()
                self._session = start_session(content, options, device)
            except RUNTIME_ERRORS as error:
                if device is not None and is_out_of_memory(error):
                    raise CapacityError(
                        f"{device.name} has too little memory for a shard: {runtime_reason(error)}"
                    ) from error
                raise ModelLoadError(f"ONNX Runtime cannot load a shard: {runtime_reason(error)}") from error
            if device is not None:
                self.note = check_nodes(self._session, device)
            self.output_types = {output.name: output_type(output) for output in self._session.get_outputs()}

    def run(self, values: dict[str, ort.OrtValue], options: ort.RunOptions) -> None:
        """Run the segment. Mutates `values`: adds its outputs. Raises InvalidRequest."""
        if self._session is None:
            return
        binding = self._session.io_binding()  # one for each run, because its output values refer to it
        with refusing(self._device):
            for name in self._inputs:
                binding.bind_ortvalue_input(name, values[name])
            for name, memory in zip(self._outputs, self._memory, strict=True):
                binding.bind_output(name, memory)
            self._session.run_with_iobinding(binding, options)
        binding.clear_binding_inputs()
        values.update(zip(self._outputs, binding.get_outputs(), strict=True))


def _reduce(values: Mapping[str, ort.OrtValue], marker: Reduction) -> Generator[Collective, None, ort.OrtValue]:
    value = values[marker.source]
    if not marker.is_last_use:
        value = to_value(as_array(value).copy(), "float32")
    x = as_array(value)
    assert x.dtype == np.float32, f"{marker.source} is {x.dtype}, but only float32 is summed"
    yield Sum(x=x.reshape(-1))
    return value


def _gather(values: Mapping[str, ort.OrtValue], marker: Gathering) -> Generator[Collective, None, ort.OrtValue]:
    part = as_array(values[marker.source])
    shape = list(part.shape)
    shape[marker.axis] = sum(marker.sizes)
    whole = np.empty(shape, part.dtype)
    edges = np.cumsum((0, *marker.sizes))
    slices = [(slice(None),) * marker.axis + (slice(edges[r], edges[r + 1]),) for r in range(len(marker.sizes))]
    in_place = math.prod(shape[: marker.axis]) == 1  # then every slice is one piece of memory
    pieces = [whole[index] if in_place else np.empty(whole[index].shape, part.dtype) for index in slices]
    yield Gather(part=_flat_bytes(part), out=[_flat_bytes(piece) for piece in pieces])
    if not in_place:
        for index, piece in zip(slices, pieces, strict=True):
            whole[index] = piece
    return to_value(whole, part.dtype.name)


def _flat_bytes(array: Array) -> U8:
    return array.reshape(-1).view(np.uint8)


def _result_type(source: onnx.TypeProto, marker: Reduction | Gathering) -> onnx.TypeProto:
    """The type of the whole value, given that of a term or a slice."""
    result = onnx.TypeProto()
    result.CopyFrom(source)
    if isinstance(marker, Gathering) and result.tensor_type.HasField("shape"):
        result.tensor_type.shape.dim[marker.axis].dim_value = sum(marker.sizes)
    return result
