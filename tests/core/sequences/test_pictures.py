"""Pictures within a prompt: what their rows are, how they turn, what they see, and where chunks may end."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.kv.prefix_index import reusable_digests
from shoal.core.sequences.pictures import Picture, Pictures, plain_turns


def picture(first_row: int, num_rows: int, key: bytes = b"k") -> Picture:
    """Row i of it has the vector [i]."""
    vectors = array("f", map(float, range(num_rows))).tobytes()
    return Picture(key=key, first_row=first_row, num_rows=num_rows, vectors=vectors)


WHOLE = Pictures(pictures=(picture(3, 6), picture(12, 4)), sees_whole=True)


def test_a_span_has_the_vectors_of_its_rows() -> None:
    spans = [(span.first_row, span.num_rows, array("f", span.vectors).tolist()) for span in WHOLE.spans_within(7, 14)]
    assert spans == [(7, 2, [4.0, 5.0]), (12, 2, [0.0, 1.0])]
    assert list(WHOLE.spans_within(9, 12)) == []


def test_rows_of_a_picture_see_its_end() -> None:
    assert WHOLE.ends_of(2, 13).tolist() == [3, 9, 9, 9, 9, 9, 9, 10, 11, 12, 16]
    causal = Pictures(pictures=WHOLE.pictures)
    assert causal.ends_of(2, 6).tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("start", "wanted", "room", "taken"),
    [
        (0, 3, 3, 3),  # up to the first
        (0, 5, 16, 3),  # ends before it
        (3, 4, 16, 6),  # goes on to its end
        (3, 4, 5, 0),  # has no room for that
        (3, 6, 6, 6),
        (6, 2, 3, 3),  # the rest of one whose beginning was cached
        (3, 10, 16, 9),  # ends before the second
        (9, 5, 16, 3),
    ],
)
def test_a_chunk_cuts_no_picture_that_sees_itself(start: int, wanted: int, room: int, taken: int) -> None:
    assert WHOLE.rows_at_once(start, wanted, room) == taken
    assert Pictures(pictures=WHOLE.pictures).rows_at_once(start, wanted, room) == wanted


@given(st.data())
def test_whole_pictures_are_always_reached_by_steps_that_have_room(data: st.DataObject) -> None:
    start, total = 0, 20
    while start < total:
        room = data.draw(st.integers(6, 12))
        taken = WHOLE.rows_at_once(start, min(data.draw(st.integers(1, room)), total - start), room)
        assert 1 <= taken <= room
        start += taken
        assert not any(one.first_row < start < one.end_row for one in WHOLE.pictures)


def test_rows_behind_the_prompt_go_on_from_its_last_turn() -> None:
    turns = array("i", [0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3])  # a text, a picture of 1 x 2, a text
    shown = Pictures(pictures=(picture(1, 2),), turns=turns, ahead=0)
    assert shown.turns_of(1, 3).tolist() == [1, 1, 1, 1, 1, 2]
    behind = Pictures(pictures=(picture(1, 2),), turns=turns, ahead=-3)
    assert behind.turns_of(3, 6).tolist() == [3, 3, 3, 1, 1, 1, 2, 2, 2]
    assert Pictures(pictures=(picture(1, 2),)).turns_of(3, 5) == plain_turns(3, 5)


def test_digests_know_the_pictures_of_their_blocks() -> None:
    tokens = [7] * 17
    first = reusable_digests(tokens, 4, b"", Pictures(pictures=(picture(5, 2, b"a"),)))
    other = reusable_digests(tokens, 4, b"", Pictures(pictures=(picture(5, 2, b"b"),)))
    none = reusable_digests(tokens, 4)
    assert first[0] == other[0] == none[0], "before the picture nothing is different"
    assert len({first[1], other[1], none[1]}) == len({first[3], other[3], none[3]}) == 3
