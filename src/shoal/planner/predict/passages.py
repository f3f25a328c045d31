"""The time that rows take to pass through the stages of one replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, pairwise

import msgspec

from shoal.planner.predict.placement import PlacedReplica, PredictedStage
from shoal.planner.predict.work import Work, group_seconds, transfer_seconds
from shoal.planner.speeds.speeds import Fleet, LinkSpeed, WorkerSpeed
from shoal.protocol.stage_config import Precision

_HEAD_EXCHANGES = 2
"""Small messages in which the shards of a last stage agree on a greedy token. Source:
model/decoder/sampling/shard_sampling."""

WorkOf = Callable[[WorkerSpeed], Work]
_WorkerKind = tuple[int, Precision, bool]
"""(class in the fleet, precision, whether it is alone): workers of one kind take equally long."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of some work of one micro-batch in each stage and between the stages."""

    stage_s: tuple[float, ...]
    hop_s: tuple[float, ...]
    """Seconds between each stage and the next."""
    head_s: float
    """Seconds of the head for forming and sending steps and for taking in results."""

    @property
    def chain_s(self) -> float:
        """The sum of all parts: stages, hops and head."""
        return sum(self.stage_s) + sum(self.hop_s) + self.head_s

    @property
    def slowest_s(self) -> float:
        """Seconds of the slowest stage or hop."""
        return max(*self.stage_s, *self.hop_s, 0.0)


class StagePath:
    """The stages of one replica, with the links between them."""

    def __init__(self, replica: PlacedReplica, fleet: Fleet, *, hidden_bytes: float, is_in_process: bool) -> None:
        """Prepare the path of any work.

        Args:
            replica: the replica with the stages.
            fleet: the fleet, with speeds at every precision of the stages.
            hidden_bytes: bytes of one row's hidden state.
            is_in_process: whether the plan's only worker is the head itself.
        """
        self._stages, self._fleet = replica.stages, fleet
        self._hidden_bytes, self._is_in_process = hidden_bytes, is_in_process

    def through(self, work_of: WorkOf, *, num_sequences: float, is_alone: bool) -> Passage:
        """Seconds of some work with the same rows in every stage.

        Args:
            work_of: gives the work of a worker from its speed.
            num_sequences: sequences in each step, for the head's time.
            is_alone: whether all other workers of the machine are idle meanwhile.
        """
        kinds = [self._worker_kinds(stage, is_alone=is_alone) for stage in self._stages]
        work_on = {kind: work_of(self._speed(*kind)) for kind in set(chain.from_iterable(kinds))}
        works = [[work_on[kind] for kind in of_stage] for of_stage in kinds]
        stage_s = tuple(self._stage_seconds(index, of_stage) for index, of_stage in enumerate(works))
        work = works[0][0]
        hop_s = tuple(
            transfer_seconds(self._link(one, other), work, hidden_bytes=self._hidden_bytes)
            for one, other in pairwise(self._stages)
        )
        message_s = 0.0 if self._is_in_process else self._fleet.message_s
        head_s = work.num_steps * (self._fleet.turn.at(num_sequences) + message_s)
        return Passage(stage_s=stage_s, hop_s=hop_s, head_s=head_s)

    def _stage_seconds(self, index: int, works: Sequence[Work]) -> float:
        """Seconds of one stage. `works`: the work of each shard."""
        stage = self._stages[index]
        has_head = index == len(self._stages) - 1
        if not stage.is_group:
            return works[0].whole_s(stage.num_layers, has_embedding=index == 0, has_head=has_head)
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

    def _worker_kinds(self, stage: PredictedStage, *, is_alone: bool) -> list[_WorkerKind]:
        return [(shard.worker_class, stage.precision, is_alone and not stage.is_group) for shard in stage.shards]

    def _speed(self, worker_class: int, precision: Precision, is_alone: bool) -> WorkerSpeed:
        one = self._fleet.classes[worker_class]
        return (one.alone if is_alone else one.busy)[precision]

    def _sums(self, stage: PredictedStage, work: Work) -> tuple[float, float]:
        """Seconds of one all-reduce, and of one small exchange, in every step of the work: those of the slowest
        pair."""
        sums = self._fleet.sums
        pairs = combinations([shard.worker_class for shard in stage.shards], 2)
        links = [sums[one][other] for one, other in pairs]
        sum_s = max(transfer_seconds(link, work, hidden_bytes=self._hidden_bytes) for link in links)
        return sum_s, work.num_steps * max(link.latency_s for link in links)

    def _link(self, stage: PredictedStage, following: PredictedStage) -> LinkSpeed:
        """The slowest of the links on which the following stage waits."""
        links = self._fleet.links
        return max(
            (links[one.worker_class][other.worker_class] for one in stage.shards for other in following.shards),
            key=lambda link: link.seconds(self._hidden_bytes),
        )
