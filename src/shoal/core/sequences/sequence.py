"""One request inside a scheduler: what is known, what is handed out, what is computed."""

from __future__ import annotations

from array import array

from shoal.core.sequences.request import Request, RequestProgress
from shoal.core.sequences.strikes import is_suspect

Arrival = tuple[float, int]
"""When a request first came and its number among those of one replica: smaller is older."""


class Sequence:
    """Mutable state of one request. A *row* is one token fed to the model; row p has position p.

    `num_computed <= num_scheduled <= len(token_ids)`; rows between the first two are in flight. Rows can be scheduled
    exactly where their token is known: the prompt, the outputs so far and, under teacher forcing, every target but
    the last.
    """

    __slots__ = (
        "added_s",
        "arrival",
        "block_table",
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
        self.block_table: list[int] = []
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
    def is_suspect(self) -> bool:
        """Whether it is to be tried alone, because it may be what breaks workers."""
        return is_suspect(self.num_losses)

    def progress(self) -> RequestProgress:
        """What other workers must know of the sequence to go on with it."""
        outputs = self.request.targets or self.token_ids[self.num_prompt :]
        return RequestProgress(
            outputs=tuple(outputs[: self.num_outputs]),
            num_cached_tokens=self.num_cached_tokens if self.was_admitted else None,
            added_s=self.added_s,
            num_losses=self.num_losses,
        )

    def resume(self, progress: RequestProgress) -> None:
        """Go on from there. Mutates: a fresh sequence."""
        for token_id in progress.outputs:
            self.append_output(token_id)
        self.num_losses = progress.num_losses
        if progress.num_cached_tokens is not None:
            self.was_admitted = True
            self.num_cached_tokens = progress.num_cached_tokens

    def append_output(self, token_id: int) -> None:
        """Take the next output. Mutates: the known tokens, unless they are forced and so known already."""
        self.num_outputs += 1
        if not self.request.targets:
            self.token_ids.append(token_id)

    def restart(self) -> None:
        """Forget everything computed, keep every token."""
        self.num_scheduled = 0
        self.num_computed = 0
        self.num_in_flight = 0
        self.num_registered = 0
        self.block_table = []
        self.state_slot = self.state_source = self.memory_slot = -1
        self.snapshot_rows, self.snapshots = [], []
        self.output_snapshot = b""
