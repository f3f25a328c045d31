"""The order of what waits, and where parts are cut."""

from shoal.core.batching.events import Part
from shoal.core.batching.queue import BatchingQueue


def make_part(arrival: int, rows: int = 1, *, first_row: int = 0, runs_alone: bool = False) -> Part:
    return Part(request_id=str(arrival), arrival=arrival, first_row=first_row, num_rows=rows, runs_alone=runs_alone)


def make_queue(*parts: Part, signature: str = "x") -> BatchingQueue:
    queue = BatchingQueue()
    for part in parts:
        queue.append(part, signature)
    return queue


def take(queue: BatchingQueue, limit: int, *, max_rows: int = 100, min_cut_rows: int = 1) -> list[tuple[int, int, int]]:
    """Arrival, first row and rows of each part taken."""
    parts = queue.take(queue.oldest_line(), limit=limit, max_rows=max_rows, min_cut_rows=min_cut_rows)
    return [(*part.order, part.num_rows) for part in parts]


def test_whole_parts_are_taken_as_long_as_they_fit() -> None:
    queue = make_queue(make_part(0, 2), make_part(1, 2), make_part(2, 2))
    assert take(queue, 5) == [(0, 0, 2), (1, 0, 2)]
    assert queue.num_rows == 2
    assert take(queue, 5) == [(2, 0, 2)]
    assert not queue


def test_a_first_part_that_is_too_large_is_cut() -> None:
    queue = make_queue(make_part(0, 10), make_part(1, 1))
    assert take(queue, 4) == [(0, 0, 4)]
    assert take(queue, 4) == [(0, 4, 4)]
    assert take(queue, 4) == [(0, 8, 2), (1, 0, 1)]


def test_no_piece_is_smaller_than_worth_a_cut_unless_it_must() -> None:
    assert take(make_queue(make_part(0, 10)), 2, min_cut_rows=4) == [(0, 0, 4)]
    assert take(make_queue(make_part(0, 7)), 2, min_cut_rows=4) == [(0, 0, 7)]
    assert take(make_queue(make_part(0, 7)), 2, max_rows=6, min_cut_rows=4) == [(0, 0, 4)]
    assert take(make_queue(make_part(0, 7)), 6, max_rows=6, min_cut_rows=4) == [(0, 0, 6)]


def test_what_runs_alone_is_neither_joined_nor_cut() -> None:
    queue = make_queue(make_part(0), make_part(1, 7, runs_alone=True), make_part(2))
    assert take(queue, 4) == [(0, 0, 1)]
    assert take(queue, 4) == [(1, 0, 7)]
    assert take(queue, 4) == [(2, 0, 1)]


def test_the_line_with_the_oldest_part_comes_first() -> None:
    queue = BatchingQueue()
    for arrival, signature in enumerate("xyyx"):
        queue.append(make_part(arrival), signature)
    assert queue.num_signatures == 2
    assert take(queue, 1) == [(0, 0, 1)]
    assert take(queue, 1) == [(1, 0, 1)]
    assert take(queue, 9) == [(2, 0, 1)]
    assert take(queue, 9) == [(3, 0, 1)]


def test_what_is_put_back_goes_to_its_place_by_age() -> None:
    queue = make_queue(make_part(2), make_part(4))
    queue.put_back([make_part(3), make_part(0, first_row=5), make_part(0)], "x")
    queue.put_back([make_part(1)], "y")
    assert take(queue, 2) == [(0, 0, 1), (0, 5, 1)]
    assert take(queue, 9) == [(1, 0, 1)]
    assert take(queue, 9) == [(2, 0, 1), (3, 0, 1), (4, 0, 1)]


def test_what_is_dropped_leaves_the_others_in_order() -> None:
    queue = make_queue(make_part(0), make_part(1), make_part(2))
    queue.append(make_part(3), "y")
    queue.drop("0", "x")
    queue.drop("3", "y")
    queue.drop("3", "y")
    assert queue.num_rows == 2
    assert queue.num_signatures == 1
    assert take(queue, 9) == [(1, 0, 1), (2, 0, 1)]
