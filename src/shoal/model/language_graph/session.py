"""A language model's graph in an ONNX Runtime session: from tokens and past keys and values to logits and extended keys
and values.

Shapes: B rows, T new tokens of each, P cells of the past, C = P + T, V vocabulary, H heads, D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from shoal.arrays import F32, I32, Array
from shoal.errors import InvalidRequest
from shoal.model.decoder_config import DecoderConfig
from shoal.model.device.opening import check_nodes
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.device_room import check_room
from shoal.model.graph.stage.ort_values import as_array, to_value
from shoal.model.graph.stage.session import compute_options, open_session, refusing
from shoal.model.language_graph.form import (
    IDS,
    KEPT_LOGITS,
    LOGITS,
    MASK,
    POSITIONS,
    USES_CACHE,
    CacheTensor,
    LanguageGraphForm,
    read_form,
)
from shoal.model.language_graph.settings import decoder_config, read_language_settings
from shoal.protocol.device_config import DeviceConfig


def describe(graph: GraphFile) -> tuple[LanguageGraphForm, DecoderConfig]:
    """The meaning of a graph's inputs, and what is known about the model. Raises ModelLoadError if it is not a language
    model."""
    settings = read_language_settings(graph.path)
    form = read_form(graph.path, graph.inputs, graph.outputs, num_heads=settings.num_heads, head_dim=settings.head_dim)
    return form, decoder_config(graph.path, settings, form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """Results of a run."""

    logits: Array
    """Logits [B, T, V], or [B, 1, V] of a graph that computes only those of last tokens; in the graph's own type."""
    presents: tuple[ort.OrtValue, ...]
    """Keys and values [B, H, C, D], in the order of the form's caches."""


class LanguageSession:
    """Runs one graph. Use from one thread at a time."""

    def __init__(self, graph: GraphFile, *, threads: int, device: DeviceConfig | None = None) -> None:
        """Load the graph.

        Args:
            graph: the file.
            threads: >= 1.
            device: to compute on; None: the processor.

        Raises:
            ModelLoadError: ONNX Runtime refuses the graph.
            ConfigError, CapacityError: the device is missing, or its memory is too small.
        """
        self.form, self.config = describe(graph)
        self._device = device
        if device is not None:
            check_room(graph, 0, graph.num_nodes, device)
        self._session = open_session(graph, str(graph.path), compute_options(threads), device)
        self.note = None if device is None else check_nodes(self._session, device)
        """What a user should know about how the graph is computed; None: nothing."""
        self._names = [LOGITS, *(cache.present for cache in self.form.caches)]

    def run(self, ids_BT: I32, mask_BC: I32, positions_BT: I32, pasts: Sequence[ort.OrtValue]) -> Computed:
        """Compute new tokens.

        Args:
            ids_BT: the tokens.
            mask_BC: 1 for a row's own cells of the past and its new tokens, 0 for padding.
            positions_BT: positions of the tokens in their sequences.
            pasts: [B, H, P, D] each, in the order of the form's caches; P may be 0.

        Raises:
            InvalidRequest: ONNX Runtime refuses the run, or the graph keeps only the latest tokens; one line.
        """
        has_past = mask_BC.shape[1] > ids_BT.shape[1]
        given = {
            IDS: ids_BT,
            MASK: mask_BC,
            POSITIONS: positions_BT,
            USES_CACHE: np.array([has_past]),
            KEPT_LOGITS: np.array(0),
        }
        dtypes = self.form.dtypes
        feed = {name: to_value(given[name].astype(dtype), dtype) for name, dtype in dtypes.items()}
        feed |= {cache.past: past for cache, past in zip(self.form.caches, pasts, strict=True)}
        with refusing(self._device):
            logits, *presents = self._session.run_with_ort_values(self._names, feed)
        num_cells = mask_BC.shape[1]
        for cache, present in zip(self.form.caches, presents, strict=True):
            if present.shape()[2] != num_cells:
                raise InvalidRequest(
                    f"{cache.present} has {present.shape()[2]} tokens after a text of {num_cells}; caches that keep "
                    "only the latest tokens are not supported: export the model with whole caches"
                )
        return Computed(logits=as_array(logits), presents=tuple(presents))


def no_past(caches: Sequence[CacheTensor], num_rows: int, num_cells: int = 0) -> list[ort.OrtValue]:
    """The past of new sequences, which has no cells; or one of zeros, for a trial."""
    return [
        to_value(np.zeros((num_rows, cache.num_heads, num_cells, cache.dim), cache.dtype), cache.dtype)
        for cache in caches
    ]


def as_logits(rows: Array) -> F32:
    """A copy in fp32, which may be written to."""
    return np.array(rows, np.float32)
