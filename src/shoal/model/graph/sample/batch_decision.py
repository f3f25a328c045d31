"""Whether the rows of a batch may be joined and split: proved from the graph, and confirmed by runs.

Both must agree. A proof holds for all values and a run only for its own, but a proof assumes that ONNX Runtime computes
what the operators' descriptions say, which the runs check. The user's own word overrides both (decision 0019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.row_proof.proof import RowProof, prove_rows
from shoal.model.graph.sample.batch_axes import NoBatch, measure_axes, no_batch
from shoal.model.graph.sample.sample_inputs import Run

_WAY_OUT = "if you know that they do not, name the batch axis of an input with --batch-dim"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDecision:
    """The axes of rows, if rows are independent."""

    axes: BatchAxes
    note: str | None
    """What the user should know; None: nothing."""


def decide_batch(
    graph: GraphFile,
    guess: BatchAxes,
    named: Mapping[str, int | None],
    run: Run | None,
    sample: Mapping[str, Array],
) -> BatchDecision:
    """The guess, if it is proved and confirmed, or if the user has named it and no run contradicts; otherwise no batch.

    Args:
        graph: the file.
        guess: from `guess_axes`.
        named: axes that the user gave.
        run: the graph; None: it cannot be run, so the proof alone decides.
        sample: inputs for the run.

    Raises:
        ConfigError: the user gave the axes, and they do not hold.
    """
    said = {name: axis for name, axis in named.items() if axis is not None}
    if all(axis is None for axis in guess.inputs.values()) and not said:
        return BatchDecision(axes=no_batch(guess), note=None)
    proof = None if guess.rows == 1 else prove_rows(graph, guess)
    reason = None if proof is None else proof.reason
    if said:
        note = None if reason is None else f"rows may depend on each other ({reason}); --batch-dim says they do not"
        return BatchDecision(axes=guess if run is None else _said(guess, said, run, sample), note=note)
    if reason is not None:
        return BatchDecision(axes=no_batch(guess), note=_alone(reason))
    try:
        measured = guess if run is None else measure_axes(guess, {}, run, sample)
        return BatchDecision(axes=_agreed(measured, proof, is_measured=run is not None), note=None)
    except NoBatch as error:
        return BatchDecision(axes=no_batch(guess), note=_alone(str(error)))


def _said(guess: BatchAxes, said: Mapping[str, int], run: Run, sample: Mapping[str, Array]) -> BatchAxes:
    try:
        return measure_axes(guess, said, run, sample)
    except NoBatch as error:
        listed = ", ".join(f"{name}={axis}" for name, axis in said.items())
        raise ConfigError(
            f"--batch-dim {listed}: the graph has no batch there ({error}); name another axis or leave it out"
        ) from None


def _agreed(axes: BatchAxes, proof: RowProof | None, *, is_measured: bool) -> BatchAxes:
    """Raises NoBatch if an output has its rows along another axis than the proof says."""
    if proof is None:
        return axes
    if is_measured:
        for name, axis in axes.outputs.items():
            if proof.outputs[name] != axis:
                raise NoBatch(f"output {name!r} grows along axis {axis}, but its rows are along {proof.outputs[name]}")
    return BatchAxes(inputs=axes.inputs, outputs=proof.outputs, rows=axes.rows)


def _alone(reason: str) -> str:
    return f"one request at a time, because rows may depend on each other: {reason}; {_WAY_OUT}"
