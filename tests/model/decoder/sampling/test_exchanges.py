"""Procedures of several ranks, and what an exchange is over a group."""

from collections.abc import Sequence

import pytest
from typing_extensions import Buffer

from shoal.errors import WorkerLost
from shoal.model.decoder.sampling.exchanges import Procedure, group_exchange, run_exchange, together
from tests.model.decoder.lockstep import run_ranks


def collect(word: bytes, num_exchanges: int) -> Procedure[list[bytes]]:
    heard: list[bytes] = []
    for turn in range(num_exchanges):
        received = yield word * (turn + 1)
        heard.append(b"".join(received))
    return heard


class TwoRanks:
    """Rank 0 of a group whose rank 1 says the same in upper case."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def all_reduce(self, x: object, *, timeout_s: float) -> None:
        raise AssertionError

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        raise AssertionError

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        if timeout_s < 1.0:
            raise WorkerLost("rank 1 did not come")
        self.sizes.append(len(memoryview(part)))
        memoryview(out[0])[:] = bytes(part)
        memoryview(out[1])[:] = bytes(part).upper()

    def close(self) -> None: ...


def test_a_procedure_is_followed_to_its_end() -> None:
    assert run_exchange(collect(b"a", 2), lambda payload: [payload, b"b"]) == [b"ab", b"aab"]


def test_a_procedure_without_exchanges_says_nothing() -> None:
    def refuse(payload: bytes) -> list[bytes]:
        raise AssertionError

    assert run_exchange(collect(b"a", 0), refuse) == []


def test_over_a_group_each_exchange_is_one_all_gather() -> None:
    group = TwoRanks()
    assert run_exchange(collect(b"a", 2), group_exchange(group, timeout_s=1.0)) == [b"aA", b"aaAA"]
    assert group.sizes == [1, 2]


def test_a_lost_peer_ends_the_procedure() -> None:
    with pytest.raises(WorkerLost, match="rank 1"):
        run_exchange(collect(b"a", 1), group_exchange(TwoRanks(), timeout_s=0.5))


def test_side_by_side_each_hears_its_own_and_exchanges_are_shared() -> None:
    def rank(letters: str) -> Procedure[list[list[bytes]]]:
        words = [(letters[0], 3), (letters[1], 0), (letters[2], 1)]
        return together([collect(letter.encode(), count) for letter, count in words])

    results, lengths = run_ranks([rank("abc"), rank("xyz")])
    assert results[0] == results[1] == [[b"ax", b"aaxx", b"aaaxxx"], [], [b"cz"]]
    assert lengths == [2, 2, 3]


def test_nothing_side_by_side_is_nothing() -> None:
    assert run_ranks([together([])]) == ([[]], [])
