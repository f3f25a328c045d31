"""ONNX Runtime sessions of a stage, run on bound buffers.

The sessions of one process share ONNX Runtime's global thread pool. With a pool each, thirty sessions would start
thirty spinning threads (measured on 2 cores: 182 ms a token instead of 7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnxruntime as ort

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.decoder.onnx.segment_builder import Marker, SegmentGraph
from shoal.model.runtime_sessions import session_options, start_session

Bindings = tuple[tuple[ort.InferenceSession, ort.IOBinding], ...]
_BINDINGS_KEPT = 96
"""Most ranges of rows whose bindings are kept. Binding 31 segments takes 0.4 ms, a lookup almost no time."""


class Segment:
    """One session and the names of its inputs and outputs."""

    def __init__(self, name: str, model: bytes, marker: Marker) -> None:
        self.marker = marker
        """What must happen after it."""
        try:
            self.session = start_session(model, session_options())
        except Exception as error:  # ONNX Runtime raises a class of its own per status code
            raise ModelLoadError(f"{name}: ONNX Runtime refuses the graph: {error}") from error
        self.inputs = tuple(value.name for value in self.session.get_inputs())
        self.outputs = tuple(value.name for value in self.session.get_outputs())

    def bind(self, buffers: Mapping[str, F32], start: int, stop: int) -> ort.IOBinding:
        """A binding of rows [start, stop) of each buffer. Valid until a buffer is freed."""
        binding = self.session.io_binding()
        for names, bind in ((self.inputs, binding.bind_input), (self.outputs, binding.bind_output)):
            for name in names:
                rows = buffers[name][start:stop]
                bind(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        return binding


def load_segments(graphs: Iterable[SegmentGraph], *, on_loaded: Callable[[int], None]) -> tuple[list[Segment], int]:
    """Sessions of all graphs of a stage, and the bytes of weights that they hold.

    `on_loaded`: called with the number of segments loaded so far.
    """
    segments, weight_bytes = list[Segment](), 0
    for graph in graphs:
        weight_bytes += graph.builder.weight_bytes
        model = graph.builder.serialize()
        graph.builder.clear()
        segments.append(Segment(graph.name, model, graph.marker))
        del model  # before the next segment is built
        on_loaded(len(segments))
    return segments, weight_bytes


class BoundSegments:
    """Segments with their buffers; bindings are made once for each range of rows."""

    def __init__(self, segments: Sequence[Segment], buffers: Sequence[Mapping[str, F32]]) -> None:
        self._segments = tuple(zip(segments, buffers, strict=True))
        self._bindings: OrderedDict[tuple[int, int], Bindings] = OrderedDict()

    def on_rows(self, start: int, stop: int) -> Bindings:
        """(session, binding) of each segment for those rows."""
        key = (start, stop)
        bindings = self._bindings.get(key)
        if bindings is not None:
            self._bindings.move_to_end(key)
            return bindings
        bindings = tuple((segment.session, segment.bind(buffers, start, stop)) for segment, buffers in self._segments)
        self._bindings[key] = bindings
        if len(self._bindings) > _BINDINGS_KEPT:
            self._bindings.popitem(last=False)
        return bindings
