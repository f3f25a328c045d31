"""The time that one replica takes for its streams' requests, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.generation.scheduler_config import prefill_chunk
from shoal.planner.predict.passages import Passage, StagePath, WorkOf
from shoal.planner.predict.placement import PlacedReplica
from shoal.planner.predict.work import Work, clips_work, outputs_work, prefill_work, prompts_work
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet, WorkerSpeed

_SMALLEST_PIECE_TOKENS = 16
"""The smallest piece into which a lone prompt is cut to fill a pipeline: a KV block. Source:
core/generation/step_forming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is common to all replicas of a plan."""

    fleet: Fleet
    workload: Workload
    """The load of all replicas together."""
    hidden_bytes: float
    """Bytes of one row's hidden state."""
    max_step_tokens: int
    is_in_process: bool
    """Whether the plan's only worker is the head itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTimes:
    """The times of one replica with its streams."""

    num_streams: int
    prompts: Passage
    """The prompts of a micro-batch's requests."""
    decode: Passage
    """All output tokens of these requests but the first."""
    ttft_s: float
    """Time to first token of a request that begins when another has ended."""
    overlap_s: float
    """Seconds by which a lone prompt, which passes the stages in pieces, is faster than the sum over the stages."""

    @property
    def num_micro_batches(self) -> int:
        return min(len(self.prompts.stage_s), self.num_streams)

    @property
    def chain_s(self) -> float:
        """Seconds of one micro-batch's wave, alone."""
        return self.prompts.chain_s + self.decode.chain_s - self.overlap_s

    @property
    def slowest_s(self) -> float:
        """Seconds of all micro-batches' waves in the stage that is slowest at prompts plus the one that is slowest at
        decoding: micro-batches that began together prefill together."""
        return self.num_micro_batches * (self.prompts.slowest_s + self.decode.slowest_s)

    @property
    def period_s(self) -> float:
        """Seconds in which every stream finishes one request."""
        return max(self.chain_s, self.slowest_s)


def replica_times(setting: Setting, replica: PlacedReplica, num_streams: int) -> ReplicaTimes:
    """The times of a replica with so many streams, at least one."""
    return _Replica(setting, replica, num_streams).times()


class _Replica:
    def __init__(self, setting: Setting, replica: PlacedReplica, num_streams: int) -> None:
        self._setting = setting
        self._stages = replica.stages
        self._pipeline = StagePath(
            replica, setting.fleet, hidden_bytes=setting.hidden_bytes, is_in_process=setting.is_in_process
        )
        self._num_streams = num_streams
        self._requests = num_streams / min(len(self._stages), num_streams)
        """Requests of a micro-batch."""
        self._chunk_tokens = prefill_chunk(len(self._stages), setting.max_step_tokens)

    def times(self) -> ReplicaTimes:
        workload, requests = self._setting.workload, self._requests
        prompts = self._through(
            lambda speed: prompts_work(
                speed, requests=requests, prompt_tokens=workload.prompt_tokens, chunk_tokens=self._chunk_tokens
            )
        )
        decode = self._through(
            lambda speed: outputs_work(speed, workload, requests=requests) * (workload.output_tokens - 1)
        )
        is_lone = self._num_streams == 1
        ttft_s = self._lone_prompt_s() if is_lone else self._prompt_among_others_s()
        return ReplicaTimes(
            num_streams=self._num_streams,
            prompts=prompts,
            decode=decode,
            ttft_s=ttft_s,
            overlap_s=max(0.0, prompts.chain_s - ttft_s) if is_lone else 0.0,
        )

    def _lone_prompt_s(self) -> float:
        """Seconds of a lone prompt, which passes a pipeline in as many pieces as stages, or more if it is long."""
        num_rows, num_stages = self._setting.workload.prompt_tokens, len(self._stages)
        piece = max(_SMALLEST_PIECE_TOKENS, -(-num_rows // num_stages)) if num_stages > 1 else num_rows
        piece = min(piece, num_rows, self._chunk_tokens)
        num_pieces = num_rows / piece
        context = (num_rows + 1) / 2
        passage = self._through(lambda speed: prefill_work(speed, rows=piece, context=context, samples=1 / num_pieces))
        return self._clips_s(1.0) + passage.chain_s + (num_pieces - 1) * passage.slowest_s

    def _prompt_among_others_s(self) -> float:
        """Seconds of a prompt beside other requests. Prompts that fit into one step arrive together, as the requests
        before them ended together; the micro-batch's other requests have a row each in that step."""
        prompt_tokens, chunk_tokens = self._setting.workload.prompt_tokens, self._chunk_tokens
        together = min(self._requests, max(1, chunk_tokens // prompt_tokens))
        rows = together * prompt_tokens
        others = self._requests - together
        num_steps = max(1.0, rows / chunk_tokens)

        def step(speed: WorkerSpeed) -> Work:
            prompt = prefill_work(
                speed, rows=rows / num_steps, context=(prompt_tokens + 1) / 2, samples=together / num_steps
            )
            return prompt + outputs_work(speed, self._setting.workload, requests=others) if others else prompt

        return self._clips_s(together) + num_steps * self._through(step).chain_s

    def _clips_s(self, count: float) -> float:
        """Seconds that the clips of so many requests add to the steps of their prompts."""
        return self._through(lambda speed: clips_work(speed, count)).chain_s

    def _through(self, work_of: WorkOf) -> Passage:
        """Seconds of some work with the same rows in every stage.

        Workers compute alone with a single stream, or if the head itself is the plan's only worker.
        """
        is_alone = self._setting.is_in_process or self._setting.workload.streams == 1
        return self._pipeline.through(work_of, num_sequences=self._requests, is_alone=is_alone)
