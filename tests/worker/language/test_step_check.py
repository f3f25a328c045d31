"""Steps that no head would send: refused before anything is computed from them."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from shoal.errors import RemoteProtocolError
from shoal.protocol.language_messages import PictureRows, SampleRow, Sampling, Step, StepId
from shoal.protocol.worker_messages import Generation
from shoal.worker.language.step_check import check_step

VOCABULARY, MOST_TOKENS = 100, 8


def ints(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def sample(**changes: object) -> tuple[SampleRow, ...]:
    return (structs.replace(SampleRow(row=2, token_index=0, sampling=Sampling()), **changes),)


GOOD = Step(
    step_id=StepId(1),
    generation=Generation(0),
    token_ids=ints(1, 99, 3),
    positions=ints(0, 1, 0),
    query_starts=ints(0, 2, 3),
    context_lens=ints(2, 1),
    block_tables=ints(1, 2),
    samples=sample(target=99, history=ints(1, 99)),
)


def test_a_good_step_passes() -> None:
    check_step(GOOD, max_tokens=MOST_TOKENS, vocab_size=VOCABULARY)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": b""},
        {"token_ids": b"123"},
        {"token_ids": ints(1, 100, 3)},
        {"token_ids": ints(1, -1, 3)},
        {"token_ids": ints(*range(9)), "positions": ints(*range(9))},
        {"positions": ints(0, 1)},
        {"query_starts": ints(0, 3)},
        {"context_lens": b""},
        {"block_tables": ints(1, 2, 3)},
        {"adapters": ints(0)},
        {"adapters": ints(0, 2)},
        {"adapters": ints(-2, 0)},
        {"adapters": b"1234567"},
        {"turns": ints(0, 0, 0)},
        {"turns": b"123"},
        {"ends_seen": ints(1, 2)},
        {"pictures": (PictureRows(first_row=-1, num_rows=1, vectors=ints(0)),)},
        {"pictures": (PictureRows(first_row=2, num_rows=2, vectors=ints(0, 0)),)},
        {"pictures": (PictureRows(first_row=0, num_rows=0, vectors=b""),)},
        {"samples": sample(row=3)},
        {"samples": sample(row=-1)},
        {"samples": sample(target=100)},
        {"samples": sample(target=-1)},
        {"samples": sample(history=b"12345")},
        {"samples": sample(history=ints(100))},
        {"samples": sample(history=ints(-1))},
        {"samples": sample(repeated=ints(100))},
    ],
)
def test_whatever_is_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        check_step(structs.replace(GOOD, **changes), max_tokens=MOST_TOKENS, vocab_size=VOCABULARY)
