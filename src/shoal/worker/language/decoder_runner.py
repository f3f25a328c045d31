"""What a worker of a language model computes: one stage, or a shard of it, step after step.

All shards of a stage end a step with the same result: in the last stage the first shard sends it to the head, in other
stages each shard sends it to the shards of the next stage that it feeds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shoal.comm.groups.switch import measure_switch
from shoal.comm.groups.timed_group import TimedGroup
from shoal.comm.links.link import Link
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.model.adapter.files import adapters_unchanged
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.file_states import states_again, unchanged
from shoal.model.open_stage import open_stage
from shoal.model.packed.kept_weights import kept_for
from shoal.protocol.codec import Activations, encode, pack_activations, unpack_activations
from shoal.protocol.language_messages import ExpertLoad, LoadStage, Step, StepResult
from shoal.protocol.worker_messages import Wire
from shoal.worker.inbox import Inbox
from shoal.worker.language.row_time import measure_row
from shoal.worker.language.step_check import check_masks, check_step
from shoal.worker.links import Connector, StageLinks
from shoal.worker.runner import OnProgress, Work

_SEND_TIMEOUT_S = 600.0
_JOIN_TIMEOUT_S = 60.0
"""Time for measuring a group, whose ranks have all loaded."""
_ACTIVATION_TIMEOUT_S = 600.0
"""How long a predecessor may take for one step before it counts as lost. The head decides which worker hangs
(core/recovery/patience); this bounds the wait if the head itself hangs."""
_MASKS_TIMEOUT_S = 600.0
"""How long the head may take for the masks of a step that it has sent; each takes it tens of microseconds. If the head
is gone, this is known at once; this bounds the wait if it hangs."""

_TELL_S = 2.0
"""Time between two reports about experts: a few kB, for something that changes over minutes."""


class DecoderRunner:
    """Implements `worker.runner.Runner`."""

    def __init__(self, load: LoadStage, control: Link, inbox: Inbox, on_progress: OnProgress) -> None:
        """Load the stage.

        Args:
            load: what to load.
            control: to the head, for results.
            inbox: of the head's messages, for masks.
            on_progress: called with (done, total) pieces of weights.

        Raises:
            ModelLoadError, ConfigError, CapacityError: the stage cannot be loaded.
        """
        self._load = load
        self._control = control
        self._inbox = inbox
        self._mask_wait_s = 0.0
        """Seconds that the current step has waited for masks."""
        self._links: StageLinks[Link] | None = None
        self._upstream: Link | None = None
        self._downstream: Sequence[Link] = ()
        self._group = TimedGroup()
        self._num_rows, self._busy_s, self._told_s = 0, 0.0, -_TELL_S
        path = Path(load.model_path)
        with unchanged(load.files, lambda: states_again(path, load.files)), adapters_unchanged(load.adapters):
            self._stage = open_stage(
                path,
                load.stage,
                on_progress,
                group=self._group if load.num_shards > 1 else None,
                kept=kept_for(load),
                form=replace(ForcedForm.of(os.environ), device=load.device),
                adapters=load.adapters,
            )

    @property
    def weight_bytes(self) -> int:
        """See `Runner.weight_bytes`."""
        return self._stage.weight_bytes

    @property
    def note(self) -> str | None:
        """See `Runner.note`."""
        return self._stage.note

    def join(self, wire: Wire, connector: Connector) -> float:
        """See `Runner.join`."""
        links = self._links = connector.connect(wire, self._load, stays_awake=self._load.cpu_quota is None)
        self._upstream = next(iter(links.sources.values()), None)
        self._downstream = [link for _, link in links.consumers]
        if links.group is not None:
            self._group.renew(links.group)
            measure_switch(links.group, timeout_s=_JOIN_TIMEOUT_S)
        row_s = measure_row(self._stage)
        self._group.take_wait_s()
        return row_s

    def check(self, work: Work) -> None:
        """See `Runner.check`."""
        if not isinstance(work, Step):
            raise RemoteProtocolError("a decoder takes no tensors")
        check_step(
            work,
            max_tokens=self._load.stage.max_step_tokens,
            vocab_size=self._stage.vocab_size,
            num_adapters=sum(not one.is_merged for one in self._load.adapters),
        )

    def run(self, work: Work) -> None:
        """See `Runner.run`."""
        assert isinstance(work, Step)
        result = self._compute(work)
        if result is not None and self._load.rank == 0:
            self._control.send([encode(result)], timeout_s=_SEND_TIMEOUT_S)
        self._tell_experts(work)

    def leave(self) -> None:
        """See `Runner.leave`."""
        if self._links is not None:
            self._links.close()
            self._links = None

    def _tell_experts(self, step: Step) -> None:
        """Report to the head which experts rows choose, if there are experts and the last report is old enough."""
        now_s = time.perf_counter()
        if now_s - self._told_s < _TELL_S:
            return
        self._told_s = now_s
        rows = self._stage.expert_rows()
        if any(rows):
            load = ExpertLoad(
                generation=step.generation,
                num_rows=self._num_rows,
                busy_s=self._busy_s,
                expert_rows=tuple(map(tuple, rows)),
            )
            self._control.send([encode(load)], timeout_s=_SEND_TIMEOUT_S)

    def _compute(self, step: Step) -> StepResult | None:
        """Run a step. A shard of the last stage returns its result; other stages pass theirs on. Raises WorkerLost,
        RemoteProtocolError."""
        stage = self._stage
        arrived = _receive_activations(self._upstream, step, stage.decoder.carried_width)
        started_s = time.perf_counter()
        self._mask_wait_s = 0.0
        result = stage.process(step, arrived.x_TD if arrived else None, lambda: self._await_masks(step))
        own_s = time.perf_counter() - started_s - self._mask_wait_s
        compute_s = (*(arrived.compute_s if arrived else ()), own_s)
        wait_s = (*(arrived.wait_s if arrived else ()), self._group.take_wait_s())
        self._num_rows += step.num_tokens
        self._busy_s += compute_s[-1] - wait_s[-1]
        alignment = (arrived.alignment if arrived else b"") + stage.alignment
        ids = {"step_id": step.step_id, "generation": step.generation}
        if isinstance(result, tuple):
            return StepResult(**ids, tokens=result, compute_s=compute_s, wait_s=wait_s, alignment=alignment)
        activations = Activations(**ids, x_TD=result, compute_s=compute_s, wait_s=wait_s, alignment=alignment)
        parts = pack_activations(activations, self._load.link_precision)
        for link in self._downstream:
            link.send(parts, timeout_s=_SEND_TIMEOUT_S)
        return None

    def _await_masks(self, step: Step) -> Sequence[bytes]:
        """What the step's guided rows may draw. Raises WorkerLost, RemoteProtocolError."""
        started_s = time.perf_counter()
        masks = self._inbox.masks_of(step, timeout_s=_MASKS_TIMEOUT_S)
        self._mask_wait_s = time.perf_counter() - started_s
        check_masks(masks, step, vocab_size=self._stage.vocab_size)
        return masks


def _receive_activations(upstream: Link | None, step: Step, hidden_size: int) -> Activations | None:
    """The hidden states of exactly this step; None in the first stage."""
    if upstream is None:
        return None
    frame = upstream.receive(timeout_s=_ACTIVATION_TIMEOUT_S)
    if frame is None:
        raise WorkerLost(f"no hidden states from the previous stage within {_ACTIVATION_TIMEOUT_S:.0f} s")
    activations = unpack_activations(frame, shape=(step.num_rows, hidden_size))
    if (activations.step_id, activations.generation) != (step.step_id, step.generation):
        raise RemoteProtocolError(f"hidden states of step {activations.step_id} came for step {step.step_id}")
    return activations
