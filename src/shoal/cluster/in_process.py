"""A replica of one worker in this very process: `poll` computes."""

from __future__ import annotations

import time
from collections import deque

from shoal.model.decoder.stage import Stage
from shoal.protocol.messages import Step, StepResult


class InProcessExecutor:
    """Runs whole-model steps inline. Implements `router.executor.Executor`."""

    num_stages = 1

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._steps: deque[Step] = deque()

    def submit(self, step: Step) -> None:
        """Queue a step; it is computed by the next `poll`."""
        self._steps.append(step)

    def poll(self) -> list[StepResult]:
        """Compute the oldest step, if there is one."""
        if not self._steps:
            return []
        step = self._steps.popleft()
        started_s = time.perf_counter()
        tokens = self._stage.process(step)
        assert isinstance(tokens, tuple)
        compute_s = time.perf_counter() - started_s
        return [StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens, compute_s=(compute_s,))]

    def filenos(self) -> tuple[int, ...]:
        """None: there is nobody to wait for."""
        return ()

    def fence(self) -> None:
        """Nobody is cut off from anybody."""
        self._steps.clear()

    def kill(self) -> bool:
        """There is nobody to end."""
        return True

    def close(self) -> None:
        """Nothing outlives the process's own memory."""
        self._steps.clear()
