"""One stage of a graph in an ONNX Runtime session."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Protocol, cast

import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state

from shoal.arrays import Array
from shoal.errors import CapacityError, ConfigError, InvalidRequest, ModelLoadError, ShoalError
from shoal.model.device.failures import device_loss, is_out_of_memory, unusable
from shoal.model.device.opening import check_nodes
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.arena_room import ArenaRoom
from shoal.model.graph.stage.device_faults import avoid_faults
from shoal.model.graph.stage.device_room import check_room, describe_room
from shoal.model.graph.stage.ort_values import NUMPY_KINDS, to_array, to_value
from shoal.model.graph.stage.run_limit import RunLimit
from shoal.model.graph.stage.stage_model import extract_stage, weight_bytes
from shoal.model.runtime_sessions import session_options, start_session
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.stage_interface import StageInput, StageInterface, StageOutput

RUNTIME_ERRORS = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
    ValueError,
)
"""ONNX Runtime's own errors have no common base class; its binding adds these two."""


class StageLike(Protocol):
    """A run of nodes and the tensors at its border: a stage's interface or its plan."""

    @property
    def first_node(self) -> int: ...
    @property
    def last_node(self) -> int: ...
    @property
    def inputs(self) -> tuple[StageInput, ...]: ...
    @property
    def outputs(self) -> tuple[StageOutput, ...]: ...


class GraphStage:
    """Runs one stage. Use from one thread at a time."""

    def __init__(self, graph: GraphFile, stage: StageLike, *, threads: int, device: DeviceConfig | None = None) -> None:
        """Load a stage: the file itself if the stage is the whole graph, otherwise an extracted model.

        Args:
            graph: the whole file.
            stage: which nodes, and the tensors at their border.
            threads: compute threads, >= 1.
            device: what to compute on; None: the processor.

        Raises:
            ModelLoadError: ONNX Runtime cannot load the stage; one line.
            ConfigError: the device is missing, or can compute no node of it.
            CapacityError: the stage does not fit the device's memory; the message says what would.
        """
        taken = [taken.spec for taken in stage.inputs]
        unread = {spec.name for spec in graph.inputs} - {spec.name for spec in taken}  # its session takes them
        is_whole = stage.first_node == 0 and stage.last_node == graph.num_nodes and not unread
        self.weight_bytes = weight_bytes(graph, stage.first_node, stage.last_node)
        if device is not None:
            check_room(graph, stage.first_node, stage.last_node, device)
        model = (
            str(graph.path)
            if is_whole
            else extract_stage(
                graph, stage.first_node, stage.last_node, stage.inputs, stage.outputs
            ).SerializeToString()
        )
        self._device = device
        try:
            self._session = open_session(graph, model, compute_options(threads), device)
        except CapacityError as error:
            raise CapacityError(self._describe_room(graph, stage, threads)) from error
        self.note = None if device is None else check_nodes(self._session, device)
        """What a user should know about how the stage is computed; None: nothing."""
        self._outputs = [output.spec for output in stage.outputs]
        self._names = [spec.name for spec in self._outputs]
        self._is_plain = all(spec.dtype in NUMPY_KINDS for spec in (*self._outputs, *taken))
        self._dtypes = {spec.name: spec.dtype for spec in taken}
        self._limit = RunLimit()
        self._room = ArenaRoom() if device is None else None

    def _describe_room(self, graph: GraphFile, stage: StageLike, threads: int) -> str:
        assert self._device is not None

        def load(part: StageInterface) -> None:
            model = extract_stage(graph, part.first_node, part.last_node, part.inputs, part.outputs)
            open_session(graph, model.SerializeToString(), compute_options(threads), self._device)

        return describe_room(graph, stage.first_node, stage.last_node, self._device, load)

    def run(self, tensors: Mapping[str, Array], limit_s: float | None = None) -> dict[str, Array]:
        """Compute the stage's outputs. Inputs are read in place; tensors that the stage does not read are ignored.

        Args:
            tensors: by name.
            limit_s: when to give up; None: never.

        Raises:
            InvalidRequest: ONNX Runtime cannot run the stage on these tensors; one line with its reason.
            DeadlineExceeded: the run took longer than `limit_s`.
        """
        feed = {name: tensors[name] for name in self._dtypes}
        with refusing(self._device), self._limit.run(limit_s) as options:
            if self._room is not None:
                self._room.prepare(options, feed.values())
            if self._is_plain:
                outputs = cast(list[Array], self._session.run(self._names, feed, options))
                return dict(zip(self._names, outputs, strict=True))
            return self._run_typed(feed, options)

    def _run_typed(self, tensors: Mapping[str, Array], options: ort.RunOptions) -> dict[str, Array]:
        """As `run`, with typed values, for types that NumPy does not have."""
        given = {name: to_value(array, self._dtypes[name]) for name, array in tensors.items()}
        values = self._session.run_with_ort_values(self._names, given, options)
        return {spec.name: to_array(value, spec.dtype) for spec, value in zip(self._outputs, values, strict=True)}


@contextmanager
def refusing(device: DeviceConfig | None = None) -> Generator[None]:
    """Turn whatever ONNX Runtime or its binding raises in the block into an error of the request or of the device.

    Raises:
        InvalidRequest: the tensors are to blame; one line with the reason.
        DeviceLost: the device is to blame.
    """
    try:
        yield
    except ShoalError:
        raise
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code, its binding any exception
        loss = None if device is None else device_loss(error, device)
        raise loss or InvalidRequest(runtime_reason(error) or type(error).__name__) from error


def compute_options(threads: int) -> ort.SessionOptions:
    """Options of all sessions that compute. `threads` >= 1."""
    options = session_options(threads)
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def open_session(
    graph: GraphFile, model: str | bytes, options: ort.SessionOptions, device: DeviceConfig | None = None
) -> ort.InferenceSession:
    """Open a session on a file or on a model made of the file's parts.

    Raises:
        ModelLoadError: ONNX Runtime cannot load it.
        ConfigError, CapacityError: the device is missing, or its memory is too small.
    """
    if isinstance(model, bytes):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.folder))
    if device is not None:
        avoid_faults(options, graph.model, device)
    try:
        return start_session(model, options, device)
    except RUNTIME_ERRORS as error:
        reason = runtime_reason(error)
        if device is not None and is_out_of_memory(error):
            raise CapacityError(
                f"{device.name} has too little memory for its part of {graph.path}: {reason}"
            ) from error
        if device is not None and (why := unusable(str(error))) is not None:
            raise ConfigError(f"{device.name}: {why}") from error
        where = "" if device is None else f" on {device.name}"
        raise ModelLoadError(f"{graph.path}: ONNX Runtime cannot load it{where}: {reason}") from error


def runtime_reason(error: Exception) -> str:
    """ONNX Runtime's message as one line, without its source locations."""
    text = " ".join(str(error).split())
    head, _, rest = text.partition(" : ")
    if head.startswith("[ONNXRuntimeError]"):
        text = rest.partition(" : ")[2].partition(" : ")[2] or rest
    return _SOURCE_PLACE.sub("", text)[:_REASON_CHARACTERS]


_REASON_CHARACTERS = 400
_SOURCE_PLACE = re.compile(r"/onnxruntime(?:_src)?/\S+:\d+ (?:[^()]{0,200}\([^()]*\)(?: const)?(?: \[with [^]]*\])? )?")
"""A line of ONNX Runtime's source and a function name, which precede the reason."""
