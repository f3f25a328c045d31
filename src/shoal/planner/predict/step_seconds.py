"""The time of one replica for each step that its scheduler forms, for simulations."""

from __future__ import annotations

from functools import lru_cache
from operator import add

from shoal.core.speed.step_times import StepShape
from shoal.planner.predict.passages import Passage, StagePath
from shoal.planner.predict.placement import PlacedReplica
from shoal.planner.predict.work import Work, step_work
from shoal.planner.speeds.speeds import Fleet, WorkerSpeed

_FAR = 1000.0
"""Tokens of context per row at which the slope is taken. Seconds are linear in the context for whole stages, and nearly
so for shards, of which the slowest counts."""
_KEPT_SHAPES = 1 << 14
"""Cached shapes. Numbers of rows repeat from step to step; contexts are added afterwards."""
_KEPT_STEPS = 64
"""Cached successions of decode steps, of some ten kilobytes each."""


class StepSeconds:
    """Seconds of any step of a replica, stage by stage."""

    def __init__(self, replica: PlacedReplica, fleet: Fleet, *, hidden_bytes: float) -> None:
        """Prepare one replica, whose workers are processes of their own.

        Args:
            replica: the stages and their workers.
            fleet: the fleet, with speeds at every precision of the stages.
            hidden_bytes: bytes of one row's hidden state.
        """
        self._path = StagePath(replica, fleet, hidden_bytes=hidden_bytes, is_in_process=False)
        self._lines = lru_cache(_KEPT_SHAPES)(self._find_lines)
        self.output_steps = lru_cache(_KEPT_STEPS)(self._find_output_steps)
        """See `_find_output_steps`; requests of equal lengths have equal steps."""
        self._fleet = fleet

    @property
    def is_steady(self) -> bool:
        """Whether a step's time depends only on its rows: the head takes no time, and no worker is slower beside
        others. That holds for described machines."""
        fleet = self._fleet
        has_head = fleet.message_s > 0.0 or any(fleet.turn.seconds)
        return not has_head and all(one.alone == one.busy for one in fleet.classes)

    def _find_output_steps(self, num_rows: int, context: int, count: int) -> tuple[float, ...]:
        """Seconds of successive decode steps of a single stage, with one row of each sequence in each step.

        Args:
            num_rows: rows of each step.
            context: context of all rows of the first step; it grows by one token per row and step.
            count: the number of steps.
        """
        base, per_output, _ = self._lines(num_rows, 0, num_rows, False)
        ((base_s,), (slope_s,)) = base.stage_s, per_output
        contexts = range(context, context + count * num_rows, num_rows)
        return tuple([base_s + tokens * slope_s for tokens in contexts])

    def passage(self, shape: StepShape, *, samples: int, is_alone: bool) -> Passage:
        """Seconds of one step in the stages.

        Args:
            shape: the step's rows and their contexts.
            samples: rows whose next token is sampled.
            is_alone: whether the machine's other workers are idle meanwhile.
        """
        output_rows, output_context, prompt_rows, prompt_context = shape
        base, per_output, per_prompt = self._lines(output_rows, prompt_rows, samples, is_alone)
        stage_s = base.stage_s
        if output_context:
            stage_s = tuple(map(add, stage_s, (output_context * slope for slope in per_output)))
        if prompt_context:
            stage_s = tuple(map(add, stage_s, (prompt_context * slope for slope in per_prompt)))
        return Passage(stage_s=stage_s, hop_s=base.hop_s, head_s=base.head_s)

    def _find_lines(
        self, output_rows: int, prompt_rows: int, samples: int, is_alone: bool
    ) -> tuple[Passage, tuple[float, ...], tuple[float, ...]]:
        """Times of a step with such rows without context, and seconds per token of context of output rows and of prompt
        rows in each stage."""

        def through(output_context: float, prompt_context: float) -> Passage:
            def work(speed: WorkerSpeed) -> Work:
                return step_work(
                    speed,
                    output_rows=output_rows,
                    output_context=output_context,
                    prompt_rows=prompt_rows,
                    prompt_context=prompt_context,
                    samples=samples,
                )

            return self._path.through(work, num_sequences=max(1, samples, output_rows), is_alone=is_alone)

        def slopes(far: Passage, tokens: float) -> tuple[float, ...]:
            return tuple((there - here) / tokens for there, here in zip(far.stage_s, base.stage_s, strict=True))

        base = through(0.0, 0.0)
        far_outputs, far_prompts = _FAR * output_rows, _FAR * prompt_rows
        per_output = slopes(through(far_outputs, 0.0), far_outputs) if output_rows else ()
        return base, per_output, slopes(through(0.0, far_prompts), far_prompts) if prompt_rows else ()
