"""One request inside a scheduler: its known, scheduled and computed rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from shoal.core.sequences.beams import BeamProgress
from shoal.core.sequences.request import Request, RequestId, RequestProgress
from shoal.core.sequences.strikes import is_suspect
from shoal.protocol.language_messages import TokenLogprobs

Arrival = tuple[float, int]
"""(time of a request's first arrival, its number on the replica); smaller is older."""


class Sequence:
    """Mutable state of one request. A *row* is one token fed to the model; row p has position p.

    `num_computed <= num_scheduled <= len(token_ids)`; rows between the first two are in flight. A row can be scheduled
    if its token is known: the prompt, the outputs so far and, under teacher forcing, every target but the last.

    A request with beam search has a sequence for each live hypothesis: the lead, which stands for the request in the
    scheduler and has the first hypothesis, and the lead's branches.
    """

    __slots__ = (
        "_lead",
        "added_s",
        "arrival",
        "attention",
        "beams",
        "block_copy",
        "block_table",
        "branches",
        "candidates",
        "digests",
        "is_cancelled",
        "is_preempted",
        "max_tokens",
        "memory_slot",
        "num_cached_tokens",
        "num_computed",
        "num_in_flight",
        "num_losses",
        "num_outputs",
        "num_overtaken",
        "num_prompt",
        "num_registered",
        "num_scheduled",
        "output_snapshot",
        "request",
        "snapshot_rows",
        "snapshots",
        "state_slot",
        "state_source",
        "token_ids",
        "was_admitted",
    )

    def __init__(self, request: Request, *, arrival: Arrival, added_s: float, max_tokens: int) -> None:
        self.request = request
        self.arrival = arrival
        """The order of admission: the oldest comes first."""
        self.added_s = added_s
        self.max_tokens = max_tokens
        """Output tokens after which the sequence ends with `length`."""
        self.token_ids = array("i", request.prompt_ids + request.targets[:-1])
        self.num_prompt = len(request.prompt_ids)
        self.num_outputs = 0
        self.num_scheduled = 0
        """Rows whose KV is computed or in flight."""
        self.num_computed = 0
        """Rows whose step has returned."""
        self.num_in_flight = 0
        """Steps in flight that hold rows of the sequence."""
        self.attention: list[bytes] = []
        """Attention of the computed rows, see `TokenProduced.attention`."""
        self.block_table: list[int] = []
        self.block_copy: tuple[int, int] | None = None
        """(source, target): a block that the next step copies first; None: nothing is copied."""
        self.beams = None if request.beams is None else BeamProgress()
        """The state of a lead's beam search; None: there is none."""
        self._lead: Sequence | None = None
        self.branches: list[Sequence] = []
        """The branches of a lead."""
        self.candidates: TokenLogprobs | None = None
        """The candidates for the next token of its hypothesis; None: not all its rows are computed."""
        self.digests: list[bytes] = []
        """Digests of the leading full blocks of `token_ids`, as far as they were needed; kept without the blocks,
        too."""
        self.num_registered = 0
        """Leading blocks that were entered into the prefix index or came from it."""
        self.state_slot = -1
        """Slot of the state of recurrent layers; -1: none."""
        self.state_source = -1
        """Slot of the state before the next chunk; -1: all zeros."""
        self.memory_slot = -1
        """Slot of the encoder's outputs for its clip; -1: none."""
        self.snapshot_rows: list[int] = []
        """Block ends at which snapshots will be taken, in order."""
        self.snapshots: list[tuple[int, int]] = []
        """(block end, slot) of snapshots in steps in flight, in order."""
        self.output_snapshot = b""
        """Digest of its latest snapshot in the output; empty: none."""
        self.num_cached_tokens = 0
        self.num_overtaken = 0
        """Younger requests that were admitted while this was the oldest waiting one."""
        self.num_losses = 0
        """See `RequestProgress.num_losses`."""
        self.was_admitted = False
        self.is_preempted = False
        self.is_cancelled = False

    @property
    def num_unscheduled(self) -> int:
        """Rows that could go into a step now."""
        return len(self.token_ids) - self.num_scheduled

    @property
    def first_sampled_row(self) -> int:
        """The row whose logits give the next output."""
        return self.num_prompt + self.num_outputs - 1

    @property
    def lead(self) -> Sequence:
        """The sequence that stands for its request: itself, unless it is a branch."""
        return self if self._lead is None else self._lead

    @property
    def members(self) -> list[Sequence]:
        """All sequences of a lead's request, in the order of their hypotheses."""
        return [self, *self.branches]

    @property
    def is_suspect(self) -> bool:
        """Whether it must be tried alone, because it may break workers."""
        return is_suspect(self.num_losses)

    def progress(self) -> RequestProgress:
        """The progress from which other workers can continue the sequence."""
        outputs = self.request.targets or self.token_ids[self.num_prompt :]
        return RequestProgress(
            outputs=tuple(outputs[: self.num_told]),
            beams=self.beams,
            num_cached_tokens=self.num_cached_tokens if self.was_admitted else None,
            added_s=self.added_s,
            num_losses=self.num_losses,
        )

    def resume(self, progress: RequestProgress) -> None:
        """Continue from the progress of another sequence. Mutates: this one, which must be fresh."""
        for token_id in progress.outputs:
            self.append_output(token_id)
        if progress.beams is not None:
            self.beams = progress.beams
            self.spread()
        self.num_losses = progress.num_losses
        if progress.num_cached_tokens is not None:
            self.was_admitted = True
            self.num_cached_tokens = progress.num_cached_tokens

    def append_output(self, token_id: int) -> None:
        """Take the next output. Mutates: the known tokens, unless the outputs are given (targets)."""
        self.num_outputs += 1
        if not self.request.targets:
            self.token_ids.append(token_id)

    @property
    def num_told(self) -> int:
        """Outputs that were sent to the client: none during a beam search."""
        return self.num_outputs if self.beams is None else 0

    def set_outputs(self, token_ids: Iterable[int]) -> None:
        """Replace the outputs. Mutates: the known tokens, but not the counts of computed rows."""
        self.token_ids = self.token_ids[: self.num_prompt]
        self.token_ids.extend(token_ids)
        self.num_outputs = len(self.token_ids) - self.num_prompt

    def branch(self, place: int) -> Sequence:
        """Make another sequence of a lead's request, without outputs. `place`: its index among the members, above 0."""
        request_id = RequestId(f"{self.request.request_id}/{place}")
        request = replace(self.request, request_id=request_id)
        branch = Sequence(request, arrival=self.arrival, added_s=self.added_s, max_tokens=self.max_tokens)
        branch._lead, branch.beams = self, None
        return branch

    def spread(self) -> None:
        """Make a sequence without computed rows for each live hypothesis. Mutates: this lead, which was restarted."""
        assert self.beams is not None
        first, *others = self.beams.live
        self.set_outputs(first.token_ids)
        self.branches = [self.branch(place) for place in range(1, len(others) + 1)]
        for branch, hypothesis in zip(self.branches, others, strict=True):
            branch.set_outputs(hypothesis.token_ids)

    def restart(self) -> None:
        """Forget all computed rows but keep every token. A lead gets new branches."""
        self.forget_rows()
        if self.beams is not None:
            self.spread()

    def forget_rows(self) -> None:
        """Forget all computed rows. Blocks and slots must have been released or lost."""
        self.num_scheduled = 0
        self.num_computed = 0
        self.num_in_flight = 0
        self.num_registered = 0
        self.block_table = []
        self.block_copy = self.candidates = None
        self.attention = []
        self.state_slot = self.state_source = self.memory_slot = -1
        self.snapshot_rows, self.snapshots = [], []
        self.output_snapshot = b""
