"""How long one replica takes for its streams' requests, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

from shoal.core.generation.scheduler_config import prefill_chunk
from shoal.planner.predict.placement import PlacedReplica, PredictedStage
from shoal.planner.predict.work import (
    Work,
    decode_work,
    group_seconds,
    prefill_work,
    prompts_work,
    transfer_seconds,
)
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet, LinkSpeed, WorkerSpeed
from shoal.protocol.stage_config import Precision

_SMALLEST_PIECE_TOKENS = 16
"""Rows down to which a lone prompt is cut to fill a pipeline: a KV block. Source: core/step_forming."""
_HEAD_EXCHANGES = 2
"""Small messages in which the shards of a last stage agree on a greedy token. Source: model/decoder/shard_sampling."""

WorkOf = Callable[[WorkerSpeed], Work]
_WorkerKind = tuple[int, Precision, bool]
"""class in the fleet, precision, whether it is alone: workers of one kind take equally long"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all replicas of a plan have in common."""

    fleet: Fleet
    workload: Workload
    """of all replicas together"""
    hidden_bytes: float
    """of one row's hidden state"""
    max_step_tokens: int
    is_in_process: bool
    """whether the plan's only worker is the head itself"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Some work of one micro-batch on its way through all stages."""

    stage_s: tuple[float, ...]
    hop_s: tuple[float, ...]
    """between each stage and the next"""
    head_s: float
    """forming steps, sending them, taking results in"""

    @property
    def chain_s(self) -> float:
        """One after the other."""
        return sum(self.stage_s) + sum(self.hop_s) + self.head_s

    @property
    def slowest_s(self) -> float:
        """Of the stages and hops."""
        return max(*self.stage_s, *self.hop_s, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTimes:
    """One replica with its streams."""

    num_streams: int
    prompts: Passage
    """of a micro-batch's requests"""
    decode: Passage
    """of all their tokens but the first"""
    ttft_s: float
    """of a request that begins when another has ended"""
    overlap_s: float
    """by which a lone prompt is faster than the sum over the stages, which it fills in pieces"""

    @property
    def num_micro_batches(self) -> int:
        return min(len(self.prompts.stage_s), self.num_streams)

    @property
    def chain_s(self) -> float:
        """One micro-batch's wave, alone."""
        return self.prompts.chain_s + self.decode.chain_s - self.overlap_s

    @property
    def slowest_s(self) -> float:
        """All micro-batches' waves, one after the other through the stage that is slowest at prompts, then through the
        one that is slowest at decoding: micro-batches that began together prefill together."""
        return self.num_micro_batches * (self.prompts.slowest_s + self.decode.slowest_s)

    @property
    def period_s(self) -> float:
        """After which every stream has finished one request."""
        return max(self.chain_s, self.slowest_s)


def replica_times(setting: Setting, replica: PlacedReplica, num_streams: int) -> ReplicaTimes:
    """The times of a replica with so many streams, at least one."""
    return _Replica(setting, replica, num_streams).times()


class _Replica:
    def __init__(self, setting: Setting, replica: PlacedReplica, num_streams: int) -> None:
        self._setting = setting
        self._stages = replica.stages
        self._num_streams = num_streams
        self._requests = num_streams / min(len(self._stages), num_streams)
        """of a micro-batch"""
        self._chunk_tokens = prefill_chunk(len(self._stages), setting.max_step_tokens)

    def times(self) -> ReplicaTimes:
        workload, requests = self._setting.workload, self._requests
        prompts = self._through(
            lambda speed: prompts_work(
                speed, requests=requests, prompt_tokens=workload.prompt_tokens, chunk_tokens=self._chunk_tokens
            )
        )
        decode = self._through(
            lambda speed: (
                decode_work(speed, rows=requests, context=workload.mean_decode_context) * (workload.output_tokens - 1)
            )
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
        """A prompt alone goes through a pipeline in as many pieces as there are stages, or more where it is long."""
        num_rows, num_stages = self._setting.workload.prompt_tokens, len(self._stages)
        piece = max(_SMALLEST_PIECE_TOKENS, -(-num_rows // num_stages)) if num_stages > 1 else num_rows
        piece = min(piece, num_rows, self._chunk_tokens)
        num_pieces = num_rows / piece
        context = (num_rows + 1) / 2
        passage = self._through(lambda speed: prefill_work(speed, rows=piece, context=context, samples=1 / num_pieces))
        return passage.chain_s + (num_pieces - 1) * passage.slowest_s

    def _prompt_among_others_s(self) -> float:
        """Prompts that fit into one step come together, as the requests before them ended together; the micro-batch's
        other requests have a row each in that step."""
        prompt_tokens, chunk_tokens = self._setting.workload.prompt_tokens, self._chunk_tokens
        together = min(self._requests, max(1, chunk_tokens // prompt_tokens))
        rows = together * prompt_tokens
        others = self._requests - together
        num_steps = max(1.0, rows / chunk_tokens)

        def step(speed: WorkerSpeed) -> Work:
            prompt = prefill_work(
                speed, rows=rows / num_steps, context=(prompt_tokens + 1) / 2, samples=together / num_steps
            )
            context = self._setting.workload.mean_decode_context
            return prompt + decode_work(speed, rows=others, context=context) if others else prompt

        return num_steps * self._through(step).chain_s

    def _through(self, work_of: WorkOf) -> Passage:
        """Seconds of some work, the same rows in every stage."""
        setting = self._setting
        kinds = [self._worker_kinds(stage) for stage in self._stages]
        work_on = {kind: work_of(self._speed(*kind)) for kind in set(chain.from_iterable(kinds))}
        works = [[work_on[kind] for kind in of_stage] for of_stage in kinds]
        stage_s = tuple(self._stage_seconds(index, of_stage) for index, of_stage in enumerate(works))
        work = works[0][0]
        hop_s = tuple(
            transfer_seconds(self._link(one, other), work, hidden_bytes=setting.hidden_bytes)
            for one, other in pairwise(self._stages)
        )
        message_s = 0.0 if setting.is_in_process else setting.fleet.message_s
        head_s = work.num_steps * (setting.fleet.turn.at(self._requests) + message_s)
        return Passage(stage_s=stage_s, hop_s=hop_s, head_s=head_s)

    def _stage_seconds(self, index: int, works: Sequence[Work]) -> float:
        """`works`: of each shard."""
        stage = self._stages[index]
        has_head = index == len(self._stages) - 1
        if not stage.is_group:
            return works[0].whole_s(stage.num_layers, has_head=has_head)
        sum_s, exchange_s = self._sums(stage, works[0])
        seconds = group_seconds(
            works,
            [shard.shares for shard in stage.shards],
            num_layers=stage.num_layers,
            has_head=has_head,
            sum_s=sum_s,
            deals_experts=stage.deals_experts,
        )
        return seconds + (sum_s if index == 0 else 0.0) + (_HEAD_EXCHANGES * exchange_s if has_head else 0.0)

    def _worker_kinds(self, stage: PredictedStage) -> list[_WorkerKind]:
        """A worker is alone while all others wait for it: one stream in whole stages, or the plan's only worker."""
        is_alone = not stage.is_group and (self._setting.is_in_process or self._setting.workload.streams == 1)
        return [(shard.worker_class, stage.precision, is_alone) for shard in stage.shards]

    def _speed(self, worker_class: int, precision: Precision, is_alone: bool) -> WorkerSpeed:
        one = self._setting.fleet.classes[worker_class]
        return (one.alone if is_alone else one.busy)[precision]

    def _sums(self, stage: PredictedStage, work: Work) -> tuple[float, float]:
        """One all-reduce, and one small exchange, for every step of the work: the slowest pair's."""
        sums = self._setting.fleet.sums
        pairs = combinations([shard.worker_class for shard in stage.shards], 2)
        links = [sums[one][other] for one, other in pairs]
        sum_s = max(transfer_seconds(link, work, hidden_bytes=self._setting.hidden_bytes) for link in links)
        return sum_s, work.num_steps * max(link.latency_s for link in links)

    def _link(self, stage: PredictedStage, following: PredictedStage) -> LinkSpeed:
        """The slowest of those that the following stage waits for."""
        links = self._setting.fleet.links
        return max(
            (links[one.worker_class][other.worker_class] for one in stage.shards for other in following.shards),
            key=lambda link: link.seconds(self._setting.hidden_bytes),
        )
