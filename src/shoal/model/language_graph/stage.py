"""A whole language model as an ONNX graph: steps of the scheduler become runs with past keys and values.

The result of a run is the past of the next one, in place, as long as the same sequences continue together. When others
come or go, pasts are gathered from the pool, to which every run's new tokens are written.

Shapes: B rows of a run, T new tokens of each, P cells of their pasts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from shoal.arrays import F32, I32
from shoal.errors import ConfigError, RemoteProtocolError
from shoal.model.decoder.sampling.sampling import sample_rows
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.language_graph.abilities import check_whole_caches, try_abilities
from shoal.model.language_graph.padding import Side, mask_of, new_cell
from shoal.model.language_graph.pool import CachePool, NewTokens
from shoal.model.language_graph.runs import RunLimits, SequencePiece, divide, pieces_of
from shoal.model.language_graph.session import Computed, LanguageSession, as_logits, no_past
from shoal.model.language_graph.settings import max_run_tokens
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.language_messages import SampledToken, SampleRow, Step
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.step_masks import Masks, awaited

_Run = Sequence[SequencePiece]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Past:
    """Results of an earlier run."""

    tables: tuple[I32, ...]
    lengths: tuple[int, ...]
    num_cells: int
    values: tuple[ort.OrtValue, ...]

    @property
    def total_cells(self) -> int:
        """Cells of all rows."""
        return len(self.lengths) * self.num_cells

    def is_of(self, run: _Run) -> bool:
        """Whether a run continues from these results."""
        return self.lengths == tuple(piece.past for piece in run) and all(
            np.array_equal(table, piece.table[: len(table)]) for table, piece in zip(self.tables, run, strict=True)
        )


class GraphDecoder:
    """Runs steps as `model.decoder.stage.Stage` does. Not thread-safe; one step at a time.

    Besides the pool it holds at most `EXTRA_COPIES` copies of it (see settings).
    """

    is_first = is_last = True

    def __init__(
        self,
        path: Path,
        config: StageConfig,
        on_progress: Callable[[int, int], None] | None = None,
        device: DeviceConfig | None = None,
    ) -> None:
        """Load the graph, and find its abilities.

        Args:
            path: the ONNX file.
            config: of the whole model.
            on_progress: called with (1, 1) after the graph is loaded.
            device: to compute on; None: the processor. Caches are in the processor's memory in any case.

        Raises:
            ModelLoadError: the graph cannot be loaded, or is not a language model.
            ConfigError: the plan cuts the model, or the device is missing.
            CapacityError: the device's memory is too small.
        """
        if config.part is not None or config.first_layer:
            raise ConfigError(f"{path}: an ONNX graph is computed whole, not by layers or shards")
        graph = open_graph(path)
        self._session = LanguageSession(graph, threads=config.threads, device=device)
        self.note = self._session.note
        form, self.decoder = self._session.form, self._session.config
        self.vocab_size = self.decoder.vocab_size
        self.weight_bytes = weight_bytes(graph, 0, graph.num_nodes)
        self._config = config
        self._limits = RunLimits(
            abilities=try_abilities(path, self._session),
            max_tokens=max_run_tokens(self.vocab_size),
            max_cells=config.num_blocks * config.block_size,
        )
        check_whole_caches(path, self._session, min(self._limits.max_cells, config.max_context))
        self._pool = CachePool(form.caches, num_blocks=config.num_blocks, block_size=config.block_size)
        self.alignment = b""
        """See `LanguageStage`: a graph has no encoder."""
        self._pasts: list[_Past] = []
        """Results of the latest step."""
        if on_progress is not None:
            on_progress(1, 1)

    def expert_rows(self) -> list[list[int]]:
        """Empty: experts inside a graph cannot be counted."""
        return []

    def process(
        self, step: Step, x_TD: F32 | None = None, masks: Masks | None = None
    ) -> F32 | tuple[SampledToken, ...]:
        """Run one step. `x_TD`: never given, because there is no stage before this one. `masks`: of guided samples.

        Returns: the sampled tokens.
        Raises: ValueError if the step does not fit the cache, InvalidRequest if ONNX Runtime refuses it.
        """
        config = self._config
        pieces = pieces_of(step, num_blocks=config.num_blocks, block_size=config.block_size)
        if any(sample.want_hidden for sample in step.samples):
            raise RemoteProtocolError("an ONNX graph hands out no hidden states")
        ids_N = np.frombuffer(step.token_ids, "<i4")
        tokens: dict[int, SampledToken] = {}
        samples: dict[int, SampleRow] = {}
        earlier, self._pasts = self._pasts, []
        for run in divide(pieces, {sample.row for sample in step.samples}, self._limits):
            computed = self._compute(run, ids_N, earlier)
            samples = samples or {sample.row: sample for sample in awaited(step.samples, masks)}
            tokens |= _draw(run, computed, samples)
        return tuple(tokens[sample.row] for sample in step.samples)

    def _compute(self, run: _Run, ids_N: I32, earlier: list[_Past]) -> Computed:
        """Compute a run. Mutates: removes the results that it continues from `earlier`."""
        lengths = tuple(piece.past for piece in run)
        count, side = run[0].count, self._limits.abilities.padding or "left"
        past = next((past for past in earlier if past.is_of(run)), None)
        if past is not None:
            earlier.remove(past)
            num_cells, values = past.num_cells, past.values
        else:
            num_cells = max(lengths)
            self._make_room(len(run) * (num_cells + count), earlier)
            values = self._gather(run, lengths, num_cells, side)
        computed = self._session.run(
            np.stack([ids_N[piece.first : piece.first + count] for piece in run]),
            mask_of(side, num_cells, lengths, count),
            np.array(lengths, np.int32).reshape(-1, 1) + np.arange(count, dtype=np.int32),
            values,
        )
        self._pool.put(computed.presents, self._new_tokens(run, num_cells, side))
        self._keep(run, num_cells + count, computed.presents)
        return computed

    def _gather(self, run: _Run, lengths: Sequence[int], num_cells: int, side: Side) -> Sequence[ort.OrtValue]:
        if num_cells == 0:
            return no_past(self._session.form.caches, len(run))
        return self._pool.gather([piece.table for piece in run], lengths, num_cells, side)

    def _make_room(self, num_cells: int, earlier: list[_Past]) -> None:
        """Before a past is gathered and results are created: drop results of the latest step if memory requires it."""
        held = sum(past.total_cells for past in (*earlier, *self._pasts))
        if held + 2 * num_cells > 3 * self._limits.max_cells:
            earlier.clear()

    def _keep(self, run: _Run, num_cells: int, presents: tuple[ort.OrtValue, ...]) -> None:
        """Keep the results for the next step, if there is room."""
        past = _Past(
            tables=tuple(piece.table for piece in run),
            lengths=tuple(piece.past + piece.count for piece in run),
            num_cells=num_cells,
            values=presents,
        )
        if sum(one.total_cells for one in (*self._pasts, past)) <= self._limits.max_cells:
            self._pasts.append(past)

    def _new_tokens(self, run: _Run, num_cells: int, side: Side) -> NewTokens:
        size, count = self._config.block_size, run[0].count
        positions_BT = np.array([piece.past for piece in run]).reshape(-1, 1) + np.arange(count)
        first_B1 = np.array([new_cell(side, num_cells, piece.past) for piece in run]).reshape(-1, 1)
        blocks_BT = np.stack([piece.table[row // size] for piece, row in zip(run, positions_BT, strict=True)])
        return NewTokens(
            rows=np.repeat(np.arange(len(run), dtype=np.int32), count),
            cells=(first_B1 + np.arange(count)).reshape(-1).astype(np.int32),
            blocks=blocks_BT.reshape(-1).astype(np.int32),
            offsets=(positions_BT % size).reshape(-1).astype(np.int32),
        )


def _draw(run: _Run, computed: Computed, samples: dict[int, SampleRow]) -> dict[int, SampledToken]:
    """Draw tokens for the rows of a run whose logits are wanted, by their rows in the step."""
    count = run[0].count
    places = [
        (index, number, piece.first + number)
        for index, piece in enumerate(run)
        for number in range(count)
        if piece.first + number in samples
    ]
    if not places:
        return {}
    last = computed.logits.shape[1] - count  # negative if there are only logits of the last token
    logits_RV = as_logits(computed.logits[[row for row, _, _ in places], [number + last for _, number, _ in places]])
    wanted = [samples[row] for _, _, row in places]
    return dict(zip((row for _, _, row in places), sample_rows(logits_RV, wanted), strict=True))
