"""One request inside a scheduler: what is known, what is handed out, what is computed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from shoal.core.sequences.beams import BeamProgress
from shoal.core.sequences.request import Request, RequestId, RequestProgress
from shoal.core.sequences.strikes import is_suspect
from shoal.protocol.language_messages import TokenLogprobs

Arrival = tuple[float, int]
"""When a request first came and its number among those of one replica: smaller is older."""


class Sequence:
    """Mutable state of one request. A *row* is one token fed to the model; row p has position p.

    `num_computed <= num_scheduled <= len(token_ids)`; rows between the first two are in flight. Rows can be scheduled
    exactly where their token is known: the prompt, the outputs so far and, under teacher forcing, every target but
    the last.

    Under beam search a request has several sequences, one for each live hypothesis: its lead, which the scheduler knows
    it by and which has the first of them, and the lead's branches.
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
        """The order of admission: the oldest goes first."""
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
        """Of the rows that are computed, see `TokenProduced.attention`."""
        self.block_table: list[int] = []
        self.block_copy: tuple[int, int] | None = None
        """Block whose content the next step copies first, and the sequence's own that it goes to; None: nothing."""
        self.beams = None if request.beams is None else BeamProgress()
        """Of a lead: where the search for its output is; None: none is under way."""
        self._lead: Sequence | None = None
        self.branches: list[Sequence] = []
        """Of a lead."""
        self.candidates: TokenLogprobs | None = None
        """What may follow its hypothesis; None: its rows are not all computed."""
        self.digests: list[bytes] = []
        """Digests of the leading full blocks of `token_ids`, as far as they were needed. They outlive the blocks."""
        self.num_registered = 0
        """Leading blocks that were offered to the prefix index or came from it."""
        self.state_slot = -1
        """Slot of the state of recurrent layers; -1: none."""
        self.state_source = -1
        """Slot that the next chunk begins with; -1: nothing."""
        self.memory_slot = -1
        """Slot of what an encoder gave for its clip; -1: none."""
        self.snapshot_rows: list[int] = []
        """Block ends at which snapshots are to be taken, in order."""
        self.snapshots: list[tuple[int, int]] = []
        """Block ends and slots of snapshots that are under way, in order."""
        self.output_snapshot = b""
        """Digest of its latest snapshot within the output; empty: none."""
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
        """The sequence that its request is known by: itself, unless it is a branch."""
        return self if self._lead is None else self._lead

    @property
    def members(self) -> list[Sequence]:
        """Of a lead: all sequences of its request, in the order of their hypotheses."""
        return [self, *self.branches]

    @property
    def is_suspect(self) -> bool:
        """Whether it is to be tried alone, because it may be what breaks workers."""
        return is_suspect(self.num_losses)

    def progress(self) -> RequestProgress:
        """What other workers must know of the sequence to go on with it."""
        outputs = self.request.targets or self.token_ids[self.num_prompt :]
        return RequestProgress(
            outputs=tuple(outputs[: self.num_told]),
            beams=self.beams,
            num_cached_tokens=self.num_cached_tokens if self.was_admitted else None,
            added_s=self.added_s,
            num_losses=self.num_losses,
        )

    def resume(self, progress: RequestProgress) -> None:
        """Go on from there. Mutates: a fresh sequence."""
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
        """Take the next output. Mutates: the known tokens, unless they are forced and so known already."""
        self.num_outputs += 1
        if not self.request.targets:
            self.token_ids.append(token_id)

    @property
    def num_told(self) -> int:
        """Outputs that the client knows: none while the best is looked for."""
        return self.num_outputs if self.beams is None else 0

    def set_outputs(self, token_ids: Iterable[int]) -> None:
        """Take other outputs than before. Mutates: the known tokens; not what is computed of them."""
        self.token_ids = self.token_ids[: self.num_prompt]
        self.token_ids.extend(token_ids)
        self.num_outputs = len(self.token_ids) - self.num_prompt

    def branch(self, place: int) -> Sequence:
        """A further sequence of a lead's request, without outputs; `place`: above 0, among its members."""
        request_id = RequestId(f"{self.request.request_id}/{place}")
        request = replace(self.request, request_id=request_id)
        branch = Sequence(request, arrival=self.arrival, added_s=self.added_s, max_tokens=self.max_tokens)
        branch._lead, branch.beams = self, None
        return branch

    def spread(self) -> None:
        """Have a sequence for each live hypothesis, of which nothing is computed. Mutates: a restarted lead."""
        assert self.beams is not None
        first, *others = self.beams.live
        self.set_outputs(first.token_ids)
        self.branches = [self.branch(place) for place in range(1, len(others) + 1)]
        for branch, hypothesis in zip(self.branches, others, strict=True):
            branch.set_outputs(hypothesis.token_ids)

    def restart(self) -> None:
        """Forget everything computed, keep every token. A lead has other branches afterwards."""
        self.forget_rows()
        if self.beams is not None:
            self.spread()

    def forget_rows(self) -> None:
        """Forget everything computed. Blocks and slots must have been given back, or be lost."""
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
