"""When a session gives back memory that a large run has left in ONNX Runtime's arena.

An arena keeps the memory of its largest run for ever: one batch or text of unusual length would cost a worker hundreds
of megabytes until its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnxruntime as ort

from shoal.arrays import Array

_SMALLER = 4
"""How much smaller than the largest run's the inputs of others are before memory is given back. A judgment: memory that
is needed again costs page faults."""
_CALM_RUNS = 16
"""Runs in a row that are that much smaller. A judgment: large runs that alternate with small ones keep their memory."""
_SHRINK = "memory.enable_memory_arena_shrinkage"
"""Source: ONNX Runtime, onnxruntime_run_options_config_keys.h."""


class ArenaRoom:
    """Watches the sizes of one session's runs."""

    def __init__(self) -> None:
        self._largest_bytes = 0
        self._calm_bytes = 0
        """Inputs of the largest of the calm runs so far."""
        self._num_calm = 0

    def prepare(self, options: ort.RunOptions, inputs: Iterable[Array]) -> None:
        """Have unused memory of the processor's arena given back after the run, if it is time for that."""
        if self.is_over(sum(array.nbytes for array in inputs)):
            options.add_run_config_entry(_SHRINK, "cpu:0")

    def is_over(self, num_bytes: int) -> bool:
        """Whether the runs have become so much smaller that memory should be given back after this one.

        `num_bytes`: of the run's inputs.
        """
        if num_bytes * _SMALLER > self._largest_bytes:
            self._largest_bytes = max(self._largest_bytes, num_bytes)
            self._num_calm = self._calm_bytes = 0
            return False
        self._num_calm += 1
        self._calm_bytes = max(self._calm_bytes, num_bytes)
        if self._num_calm < _CALM_RUNS:
            return False
        self._largest_bytes, self._num_calm, self._calm_bytes = self._calm_bytes, 0, 0
        return True
