"""The story of a graph's replicas: the events and effects of its batching."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from shoal.core.batching.events import (
    BatchCompleted,
    BatchRefused,
    Effect,
    Event,
    InferenceAdded,
    InferenceCancelled,
    InferenceCompleted,
    InferenceFailed,
    SubmitBatch,
)
from shoal.core.recovery.events import ReplicaJoined, Tick
from shoal.core.story import NO_REPLICA, Story
from shoal.router.story.recovery_words import effect_words, event_words


class BatchStory:
    """Notes every event of the batch scheduler with its effects. It decides nothing."""

    def __init__(self, story: Story, num_replicas: int) -> None:
        self._story = story
        self._num_replicas = num_replicas

    def note(self, event: Event, effects: Sequence[Effect], now_s: float) -> None:
        """Note an event and its effects."""
        at = NO_REPLICA
        match event:
            case InferenceAdded(request_id=request_id, num_rows=num_rows):
                self._story.note(now_s, at, f"request {request_id} came, {num_rows} rows", request_ids=(request_id,))
            case InferenceCancelled(request_id=request_id):
                self._story.note(now_s, at, f"request {request_id} cancelled", request_ids=(request_id,))
            case BatchCompleted(replica=at, batch_id=batch_id, compute_s=compute_s):
                self._story.note(now_s, at, f"batch {batch_id} answered, {sum(compute_s) * 1e3:.1f} ms of compute")
            case BatchRefused(replica=at, batch_id=batch_id, reason=reason):
                self._story.note(now_s, at, f"batch {batch_id} refused: {reason}")
            case Tick():
                pass
            case ReplicaJoined():
                at, self._num_replicas = self._num_replicas, self._num_replicas + 1
                self._story.note(now_s, at, event_words(event))
            case _:
                at = event.replica
                self._story.note(now_s, at, event_words(event))
        if effects:
            self._note_effects(effects, at, now_s)

    def _note_effects(self, effects: Sequence[Effect], at: int, now_s: float) -> None:
        """Note effects for their replicas. `at`: the replica of the event, or NO_REPLICA."""
        told: defaultdict[int, list[str]] = defaultdict(list)
        ids: defaultdict[int, list[str]] = defaultdict(list)
        for effect in effects:
            match effect:
                case SubmitBatch(replica=replica, batch_id=batch_id, parts=parts, num_rows=num_rows):
                    told[replica].append(f"batch {batch_id}, {num_rows} rows of {len(parts)} requests")
                    ids[replica].extend(part.request_id for part in parts)
                case InferenceCompleted(request_id=request_id):
                    told[at].append(f"request {request_id} ended")
                    ids[at].append(request_id)
                case InferenceFailed(request_id=request_id, error=error):
                    told[at].append(f"request {request_id} failed: {error}")
                    ids[at].append(request_id)
                case _:
                    told[effect.replica].append(effect_words(effect))
        for replica, words in told.items():
            self._story.note(now_s, replica, "decided", words, ids[replica])
