"""The sample input with which a graph is measured, and its batch axes."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.config import GraphLaunchConfig
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, DeadlineExceeded
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.sample.batch_axes import guess_axes, no_batch, take, vary_rows
from shoal.model.graph.sample.batch_decision import decide_batch
from shoal.model.graph.sample.empty_batch import is_empty
from shoal.model.graph.sample.input_check import check_inputs
from shoal.model.graph.sample.sample_inputs import Run, sample_inputs
from shoal.model.graph.stage.session import GraphStage
from shoal.router.graph_executor import Tensors
from shoal.router.rows import count_rows

_SAMPLE_ROWS = 4
"""Rows of given inputs that are used for measuring."""
_RUN_LIMIT_S = 30.0
"""A sample that takes longer counts as an endless loop; a graph that takes so long for a few rows could not be
served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSample:
    """A valid input with its batch axes."""

    inputs: Tensors
    batch: BatchAxes
    note: str | None = None
    """A note for the user about the batch; None: there is none."""

    @property
    def num_rows(self) -> int:
        """Rows of the input; 1 if the graph is not batched."""
        return count_rows(self.inputs, self.batch)

    def with_rows(self, num_rows: int | None) -> GraphSample:
        """The sample with so many rows, made from these; unchanged for None, or if the graph fixes its rows."""
        if num_rows is None or not self.batch.is_batched or self.batch.rows is not None:
            return self
        return GraphSample(inputs=vary_rows(self.inputs, self.batch, num_rows), batch=self.batch, note=self.note)


def open_sample(
    config: GraphLaunchConfig,
    graph: GraphFile,
    whole: GraphStage | None,
    given: Tensors | None,
    known: BatchAxes | None = None,
) -> GraphSample:
    """Take rows of the given input, or generate one with which the graph runs; find the batch axes by running it.

    Args:
        config: the options, with the axes that the user named and the rows of a micro-batch.
        graph: the file.
        whole: runs the graph; None: nothing is tried.
        given: real inputs; None: generated ones.
        known: the batch axes, if they are known.

    Raises:
        ConfigError: no generated input runs, or a named axis is no batch axis.
        InvalidRequest: the given inputs do not match the graph.
    """
    if config.micro_batch is not None and config.micro_batch < 1:
        raise ConfigError(f"a micro-batch of {config.micro_batch} rows: it needs at least 1")
    guess = known or guess_axes(graph.inputs, graph.outputs, config.batch_dims)
    if not config.is_batched:
        guess = no_batch(guess)
    run = None if whole is None else _limited(whole, graph)
    if given is None or is_empty(given, guess):
        required = [spec for spec in graph.inputs if not spec.is_optional]
        inputs: Tensors = {**graph.defaults, **sample_inputs(required, run, axes=guess)}
    else:
        given = check_inputs(graph.inputs, given, defaults=graph.defaults, batch=guess, convert=True)
        wanted = config.micro_batch or _SAMPLE_ROWS
        inputs = take(given, guess, range(guess.rows or min(wanted, count_rows(given, guess))))
    if known or not config.is_batched:
        return GraphSample(inputs=inputs, batch=guess)
    decision = decide_batch(graph, guess, config.batch_dims, run, inputs)
    return GraphSample(inputs=inputs, batch=decision.axes, note=decision.note)


def _limited(whole: GraphStage, graph: GraphFile) -> Run:
    """A function that runs samples and raises ConfigError if one does not end."""

    def run(inputs: Tensors) -> Tensors:
        try:
            return whole.run({**graph.defaults, **inputs}, _RUN_LIMIT_S)
        except DeadlineExceeded as error:
            raise ConfigError(
                f"{graph.path}: a run on a small sample was tried, but {error}: the model loops without end, "
                "or needs other inputs; give real ones, with --inputs where a command takes them"
            ) from error

    return run
