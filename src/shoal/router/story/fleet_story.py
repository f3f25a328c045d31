"""The story of a language model's replicas: events and effects of the fleet, and the replicas of requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.recovery.events import ReplicaJoined, ReplicaLost, ReplicaReady, StopWorkers, Tick
from shoal.core.sequences.request import RequestFinished, RequestId, TokenProduced
from shoal.router.story.recovery_words import effect_words, event_words
from shoal.router.story.replica_log import ReplicaLog


class FleetStory:
    """Notes every event of the fleet with its effects. It decides nothing."""

    def __init__(self, fleet: ReplicaFleet, log: ReplicaLog) -> None:
        """
        Args:
            fleet: the fleet, which is asked for the replica of a request.
            log: the log of its replicas.
        """
        self._fleet = fleet
        self._log = log
        self._story = log.story
        self._at: dict[RequestId, int] = {}
        """The replica of every request that has not ended."""
        self._has_newcomer = False

    def note(self, event: FleetEvent, effects: Sequence[FleetEffect], now_s: float) -> None:
        """Note an event and its effects."""
        match event:
            case RequestAdded(request=request):
                self._note_added(request.request_id, len(request.prompt_ids), now_s)
                return
            case RequestCancelled(request_id=request_id):
                if (at := self._at.get(request_id)) is not None:
                    self._story.note(now_s, at, f"request {request_id} cancelled", request_ids=(request_id,))
            case StepAnswered(replica=replica, result=result):
                words = f"step {result.step_id} answered, {sum(result.compute_s) * 1e3:.1f} ms of compute"
                self._story.note(now_s, replica, words)
            case Tick():
                pass
            case ReplicaJoined():
                self._has_newcomer = True
                self._story.note(now_s, len(self._fleet.replicas) - 1, event_words(event))
            case _:
                self._story.note(now_s, event.replica, event_words(event))
        if effects:
            self._note_effects(effects, now_s)

    def _note_added(self, request_id: RequestId, num_prompt_tokens: int, now_s: float) -> None:
        replica = self._fleet.replica_of(request_id)
        if replica is not None:
            self._at[request_id] = replica
            words = f"request {request_id} came, {num_prompt_tokens} prompt tokens"
            self._story.note(now_s, replica, words, request_ids=(request_id,))

    def _note_effects(self, effects: Sequence[FleetEffect], now_s: float) -> None:
        told: defaultdict[int, list[str]] = defaultdict(list)
        tokens: defaultdict[int, list[RequestId]] = defaultdict(list)
        ended: defaultdict[int, list[RequestId]] = defaultdict(list)
        for effect in effects:
            match effect:
                case TokenProduced(request_id=request_id):
                    if (at := self._at.get(request_id)) is not None:
                        tokens[at].append(request_id)
                case RequestFinished(request_id=request_id, reason=reason):
                    if (at := self._at.pop(request_id, None)) is not None:
                        told[at].append(f"request {request_id} ended: {reason}")
                        ended[at].append(request_id)
                case SubmitStep(replica=replica, step=step):
                    size = f"{step.num_tokens} rows of {step.num_sequences} requests"
                    told[replica].append(f"step {step.step_id}, {size}")
                case _:
                    told[effect.replica].append(effect_words(effect))
        for replica in {*told, *tokens}:
            ids = (*tokens[replica], *ended[replica])
            first = [f"{len(tokens[replica])} tokens"] if tokens[replica] else []
            self._story.note(now_s, replica, "decided", (*first, *told[replica]), ids)

    def note_moves(self, event: FleetEvent, effects: Sequence[FleetEffect], now_s: float) -> None:
        """Note which requests have moved, after the effects are carried out. Checked only if the event can move
        some."""
        is_share = isinstance(event, Tick) and self._has_newcomer
        is_rare = isinstance(event, ReplicaReady | ReplicaJoined | ReplicaLost) or is_share
        if not is_rare and not any(isinstance(effect, StopWorkers) for effect in effects):
            return
        if is_share:
            self._has_newcomer = False
        moved: defaultdict[int, list[RequestId]] = defaultdict(list)
        for request_id, before in self._at.items():
            after = self._fleet.replica_of(request_id)
            if after is not None and after != before:
                moved[after].append(request_id)
        for replica, request_ids in moved.items():
            self._at.update(dict.fromkeys(request_ids, replica))
            self._story.note(now_s, replica, f"takes over {len(request_ids)} requests", request_ids=request_ids)
            self._log.note_moved(replica, request_ids)
