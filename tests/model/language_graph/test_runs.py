"""A step is divided into runs that hold every row once and nothing that the graph cannot do."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.language_graph.abilities import Abilities
from shoal.model.language_graph.runs import RunLimits, SequencePiece, divide

ABILITIES = st.builds(
    Abilities,
    batches=st.booleans(),
    padding=st.sampled_from(["left", "right", None]),
    chunks=st.booleans(),
    last_only=st.booleans(),
)
LIMITS = st.builds(RunLimits, abilities=ABILITIES, max_tokens=st.integers(1, 40), max_cells=st.integers(1, 4000))
SIZES = st.lists(st.tuples(st.sampled_from([1, 1, 2, 17, 60]), st.integers(0, 900)), min_size=1, max_size=8)


def pieces_of_sizes(sizes: list[tuple[int, int]]) -> list[SequencePiece]:
    firsts = np.cumsum([0, *(count for count, _ in sizes)])
    return [
        SequencePiece(first=int(first), count=count, past=past, table=np.zeros(1, np.int32))
        for first, (count, past) in zip(firsts[:-1], sizes, strict=True)
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=SIZES, limits=LIMITS, every=st.integers(1, 30))
def test_runs_hold_every_row_once_within_what_the_graph_can(
    sizes: list[tuple[int, int]], limits: RunLimits, every: int
) -> None:
    pieces = pieces_of_sizes(sizes)
    num_rows = sum(count for count, _ in sizes)
    wanted = {*range(0, num_rows, every)}
    runs = divide(pieces, wanted, limits)
    rows = [row for run in runs for piece in run for row in range(piece.first, piece.first + piece.count)]
    assert sorted(rows) == list(range(num_rows))
    past_of_row = {piece.first + n: piece.past + n for piece in pieces for n in range(piece.count)}
    for run in runs:
        assert len({piece.count for piece in run}) == 1
        for piece in run:
            assert piece.past == past_of_row[piece.first]
            if not limits.abilities.chunks:
                assert piece.count == 1 or piece.past == 0
            else:
                assert piece.count <= limits.max_tokens
            if limits.abilities.last_only:
                assert not wanted.intersection(range(piece.first, piece.first + piece.count - 1))
        if len(run) > 1:
            pasts = [piece.past for piece in run]
            assert limits.abilities.batches
            assert len(run) * (max(pasts) + 1) <= limits.max_cells
            if limits.abilities.padding is None:
                assert len(set(pasts)) == 1
            assert max(pasts) <= max(2 * min(pasts), min(pasts) + 64)


def test_parts_of_a_prompt_are_computed_in_order() -> None:
    able = Abilities(batches=True, padding="left", chunks=True, last_only=False)
    (piece,) = pieces_of_sizes([(50, 7)])
    runs = divide([piece], set(), RunLimits(abilities=able, max_tokens=20, max_cells=999))
    assert [(part.first, part.count, part.past) for (part,) in runs] == [(0, 20, 7), (20, 20, 27), (40, 10, 47)]


def test_decoding_rows_share_a_run_though_their_pasts_differ() -> None:
    able = Abilities(batches=True, padding="left", chunks=True, last_only=False)
    runs = divide(
        pieces_of_sizes([(1, 300), (1, 10), (1, 200), (1, 1000)]),
        set(),
        RunLimits(abilities=able, max_tokens=20, max_cells=9999),
    )
    assert [[piece.past for piece in run] for run in runs] == [[10], [200, 300], [1000]]
