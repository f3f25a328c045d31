"""Whether a step that arrived over a link can be run: checked before anything is computed from it.

What concerns attention and recurrence (positions, sequences, blocks, states) is checked by the native code that uses
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from shoal.errors import RemoteProtocolError
from shoal.protocol.language_messages import SampleRow, Step


def check_step(step: Step, *, max_tokens: int, vocab_size: int, num_adapters: int = 0) -> None:
    """Raises RemoteProtocolError if sizes, rows or token ids are out of bounds.

    Args:
        step: as it arrived.
        max_tokens: rows of the largest flat batch.
        vocab_size: of the whole model.
        num_adapters: that sequences may have.
    """
    arrays = {name: getattr(step, name) for name in ("token_ids", "positions", "query_starts", "context_lens")}
    for name, data in {**arrays, "block_tables": step.block_tables}.items():
        if len(data) % 4:
            raise RemoteProtocolError(f"{name} of {len(data)} bytes holds no whole number of values")
    if not 1 <= step.num_tokens <= max_tokens or len(step.positions) != len(step.token_ids):
        raise RemoteProtocolError(
            f"a step of {step.num_tokens} tokens at {len(step.positions) // 4} positions, of at most {max_tokens}"
        )
    num_sequences = step.num_sequences
    if not num_sequences or len(step.query_starts) != 4 * (num_sequences + 1):
        raise RemoteProtocolError(f"{num_sequences} sequences with {len(step.query_starts) // 4} starts")
    if len(step.block_tables) % (4 * num_sequences):
        raise RemoteProtocolError(f"{len(step.block_tables) // 4} blocks are no table of {num_sequences} sequences")
    if len(step.state_slots) not in (0, 8 * num_sequences) or len(step.state_saves) % 12:
        raise RemoteProtocolError(f"{len(step.state_slots) // 4} state slots for {num_sequences} sequences")
    if len(step.memory_slots) not in (0, 4 * num_sequences):
        raise RemoteProtocolError(f"{len(step.memory_slots)} bytes of memory slots for {num_sequences} sequences")
    if len(step.block_copies) % 8:
        raise RemoteProtocolError(f"{len(step.block_copies)} bytes are no pairs of blocks")
    if (one := step.alignment) and not (one.first_row >= 0 and 1 <= one.num_rows <= step.num_tokens - one.first_row):
        raise RemoteProtocolError(
            f"attention is wanted of {one.num_rows} rows from {one.first_row} of {step.num_tokens}"
        )
    _check_adapters(step, num_adapters)
    _check_pictures(step)
    _check_ids("token", step.token_ids, vocab_size)
    _check_samples(step.samples, step.num_tokens, vocab_size)


def check_masks(masks: Sequence[bytes], step: Step, *, vocab_size: int) -> None:
    """Raises RemoteProtocolError if there is not one mask for each of the step's guided samples, or if one allows no
    token."""
    guided = [sample.row for sample in step.samples if sample.is_guided]
    if len(masks) != len(guided):
        raise RemoteProtocolError(f"{len(masks)} masks came for {len(guided)} rows of step {step.step_id}")
    for row, allowed in zip(guided, masks, strict=True):
        _check_mask(row, allowed, vocab_size)


def _check_samples(samples: Iterable[SampleRow], num_tokens: int, vocab_size: int) -> None:
    for sample in samples:
        if not 0 <= sample.row < num_tokens:
            raise RemoteProtocolError(f"row {sample.row} of {num_tokens} is to be sampled")
        if sample.target is not None and not 0 <= sample.target < vocab_size:
            raise RemoteProtocolError(f"token {sample.target} of {vocab_size} is to be taken")
        if sample.history:
            _check_ids("earlier token", sample.history, vocab_size)
        if sample.repeated:
            _check_ids("repeated token", sample.repeated, vocab_size)
        if sample.is_guided and (sample.want_hidden or sample.allowed):
            raise RemoteProtocolError(f"row {sample.row} is guided, and draws no token or knows already which")
        if sample.allowed:
            _check_mask(sample.row, sample.allowed, vocab_size)


def _check_mask(row: int, allowed: bytes, vocab_size: int) -> None:
    if not any(allowed[: -(-vocab_size // 8)]):
        raise RemoteProtocolError(f"row {row} may draw no token")


def _check_adapters(step: Step, num_adapters: int) -> None:
    if len(step.adapters) not in (0, 4 * step.num_sequences):
        raise RemoteProtocolError(f"{step.num_sequences} sequences have adapters in {len(step.adapters)} bytes")
    adapters = np.frombuffer(step.adapters, "<i4")
    if adapters.size and not -1 <= int(adapters.min()) <= int(adapters.max()) < num_adapters:
        raise RemoteProtocolError(f"a sequence has an adapter that is none of {num_adapters}")


def _check_pictures(step: Step) -> None:
    """Check the rows of pictures. The length of their vectors is checked where they are used."""
    if len(step.turns) not in (0, 12 * step.num_tokens) or len(step.ends_seen) not in (0, 4 * step.num_tokens):
        raise RemoteProtocolError(
            f"{step.num_tokens} rows turn by {len(step.turns)} bytes and see by {len(step.ends_seen)}"
        )
    for rows in step.pictures:
        if rows.num_rows < 1 or not 0 <= rows.first_row <= step.num_tokens - rows.num_rows:
            raise RemoteProtocolError(
                f"a picture has {rows.num_rows} rows from {rows.first_row} on, of {step.num_tokens}"
            )


def _check_ids(what: str, data: bytes, vocab_size: int) -> None:
    """Check ids as unsigned numbers, so that negative ones are beyond any vocabulary."""
    if len(data) % 4:
        raise RemoteProtocolError(f"{what} ids of {len(data)} bytes")
    ids = np.frombuffer(data, "<u4")
    if ids.size and int(ids.max()) >= vocab_size:
        raise RemoteProtocolError(f"a {what} id is not below {vocab_size}")
