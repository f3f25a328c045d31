"""A language model's replica in virtual time: a pipeline of stages over one paged KV memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.protocol.language_messages import SampledToken, SampleRow, Step, StepResult
from shoal.protocol.step_masks import Masks, awaited
from shoal.sim.faults import Network
from shoal.sim.reference_model import FIRST_ENTRY, chain_entry, draw_token, likeliest
from shoal.sim.simulated_workers import SimulatedWorkers

_GARBAGE = 0xDEAD
"""The content of KV memory before anything is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds that a stage takes for a step: fixed_s + tokens * token_s."""

    fixed_s: float
    token_s: float

    def seconds(self, num_tokens: int) -> float:
        return self.fixed_s + num_tokens * self.token_s


class StepWorkers(SimulatedWorkers[StepWork, StepResult, SchedulerConfig]):
    """The workers of a language model's replica, over faulty links."""

    def __init__(self, config: SchedulerConfig, cost: StepCost, network: Network, rng: Random, now_s: float) -> None:
        super().__init__(config, cost.seconds(1) * config.num_micro_batches, network, rng, now_s)
        self._replica = SimulatedReplica(
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            num_stages=config.num_micro_batches,
            num_states=config.num_states,
            cost=cost,
        )
        self._replica.restart(now_s)

    def slow_down(self, factor: float) -> None:
        self._replica.slow_down(factor)

    def compute(self, work: StepWork, now_s: float) -> tuple[StepResult, float]:
        return self._replica.run(work, now_s)


class SimulatedReplica:
    """Computes steps like real workers, in the order in which they are sent.

    Every stage writes the same slots of its own KV memory in the same order, so one memory stands for all stages.
    """

    def __init__(
        self, *, num_blocks: int, block_size: int, num_stages: int, cost: StepCost, num_states: int = 0
    ) -> None:
        """With `num_states`, a token's entry is chained to its sequence's recurrent state, which is the entry before;
        otherwise to the entry in KV memory."""
        self._num_slots = num_blocks * block_size
        self._num_states = num_states
        self._block_size = block_size
        self._num_stages = num_stages
        self._cost = cost
        self.restart(0.0)

    def restart(self, now_s: float) -> None:
        """Become new workers with an empty pipeline and empty KV memory."""
        self._slots = array("Q", (_GARBAGE,)) * self._num_slots
        self._states = array("Q", (_GARBAGE,)) * self._num_states
        self._stage_free_s = [now_s] * self._num_stages

    def slow_down(self, factor: float) -> None:
        """Multiply the time of every step by a factor from now on."""
        self._cost = StepCost(fixed_s=self._cost.fixed_s * factor, token_s=self._cost.token_s * factor)

    def run(self, work: StepWork, now_s: float) -> tuple[StepResult, float]:
        """The answer to a step that is sent now, and the time of its arrival."""
        step = work.step
        tokens = self._compute(step, work.masks)
        seconds = self._cost.seconds(step.num_tokens)
        done_s = now_s
        for stage in range(self._num_stages):
            done_s = max(done_s, self._stage_free_s[stage]) + seconds
            self._stage_free_s[stage] = done_s
        result = StepResult(
            step_id=step.step_id,
            generation=step.generation,
            tokens=tokens,
            compute_s=(seconds,) * self._num_stages,
        )
        return result, done_s

    def _compute(self, step: Step, masks: Masks) -> tuple[SampledToken, ...]:
        token_ids, positions, starts = _ints(step.token_ids), _ints(step.positions), _ints(step.query_starts)
        tables = _ints(step.block_tables)
        width = len(tables) // step.num_sequences
        samples = {sample.row: sample for sample in awaited(step.samples, masks)}
        tokens: dict[int, SampledToken] = {}
        saves = self._read_states(step)
        self._copy_blocks(_ints(step.block_copies))
        own_slots = _ints(step.state_slots)[1::2]
        for sequence in range(step.num_sequences):
            table = tables[sequence * width : (sequence + 1) * width]
            for row in range(starts[sequence], starts[sequence + 1]):
                previous = self._previous(table, positions[row], own_slots[sequence] if own_slots else None)
                entry = self._write(table, positions[row], token_ids[row], previous)
                if own_slots:
                    self._states[own_slots[sequence]] = entry
                for slot in saves.get((sequence, row + 1 - starts[sequence]), ()):
                    self._states[slot] = entry
                if row in samples:
                    tokens[row] = self._sample(table, positions[row], samples[row])
        return tuple(tokens[sample.row] for sample in step.samples)

    def _copy_blocks(self, pairs: array[int]) -> None:
        size = self._block_size
        for source, target in zip(pairs[::2], pairs[1::2], strict=True):
            self._slots[target * size : (target + 1) * size] = self._slots[source * size : (source + 1) * size]

    def _read_states(self, step: Step) -> dict[tuple[int, int], list[int]]:
        """Give every sequence its state from before the step. Returns the slots to save to, by sequence and rows."""
        slots, saves = _ints(step.state_slots), _ints(step.state_saves)
        assert len(slots) == (2 * step.num_sequences if self._num_states else 0)
        before = [self._states[read] if read >= 0 else FIRST_ENTRY for read in slots[::2]]
        for slot, entry in zip(slots[1::2], before, strict=True):
            self._states[slot] = entry
        found: dict[tuple[int, int], list[int]] = {}
        for index in range(0, len(saves), 3):
            found.setdefault((saves[index], saves[index + 1]), []).append(saves[index + 2])
        return found

    def _previous(self, table: array[int], position: int, state: int | None) -> int:
        if state is not None:
            return self._states[state]
        return self._slots[self._slot(table, position - 1)] if position else FIRST_ENTRY

    def _write(self, table: array[int], position: int, token_id: int, previous: int) -> int:
        entry = chain_entry(previous, token_id, position)
        self._slots[self._slot(table, position)] = entry
        return entry

    def _sample(self, table: array[int], position: int, sample: SampleRow) -> SampledToken:
        if sample.target is not None:
            return SampledToken(token_id=sample.target)
        entries = array("Q", (self._slots[self._slot(table, p)] for p in range(position + 1)))
        if sample.sampling.num_logprobs:
            found = likeliest(entries, sample.sampling.num_logprobs, sample.forbidden)
            return SampledToken(token_id=found.top_ids[0], logprobs=found)
        history = sample.history + sample.repeated
        token_id = draw_token(entries, sample.sampling, sample.token_index, history, sample.allowed, sample.forbidden)
        return SampledToken(token_id=token_id)

    def _slot(self, table: array[int], position: int) -> int:
        block = table[position // self._block_size]
        assert block >= 0, f"position {position} has no block"
        return block * self._block_size + position % self._block_size


def _ints(packed: bytes) -> array[int]:
    values = array("i")
    values.frombytes(packed)
    return values
