"""Stop strings are found wherever the tokens were cut, and nothing that might become one is shown too early."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shoal.generation.output.text_stream import StopFinder, TextStream, failure_table, prepare_stops

texts = st.text(alphabet="abA\n é", max_size=40)
stop_lists = st.lists(st.text(alphabet="abA\n é", min_size=1, max_size=5), max_size=4)


def reference(text: str, stops: list[str]) -> str:
    """Straight from the definition: the shortest prefix that ends with a stop string, less the longest such string."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


class PieceDetokenizer:
    """Token i is piece i; the last piece comes only with the flush, as an unfinished character would."""

    def __init__(self, pieces: list[str], tail: str) -> None:
        self._pieces = pieces
        self._tail = tail

    def push(self, token_id: int) -> str:
        return self._pieces[token_id]

    def flush(self) -> str:
        return self._tail


@given(texts, stop_lists, st.lists(st.integers(0, 100), max_size=10), st.booleans())
def test_streamed_text_equals_the_definition_for_any_token_boundaries(
    text: str, stops: list[str], cuts: list[int], last_piece_is_flushed: bool
) -> None:
    pieces = pieces_of(text, cuts)
    tail = pieces.pop() if pieces and last_piece_is_flushed else ""
    stream = TextStream(PieceDetokenizer(pieces, tail), prepare_stops(stops))
    shown = ""
    for token_id in range(len(pieces)):
        shown += stream.push(token_id)
        assert reference(text, stops).startswith(shown)
        if stream.stopped:
            break
    shown += stream.flush()
    assert shown == reference(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


def test_text_that_may_not_stop_passes_and_begins_no_stop_string() -> None:
    stream = TextStream(PieceDetokenizer(["ab", "a", "bc", "ab"], ""), prepare_stops(["ab"]))
    shown = [stream.push(token_id, may_stop=token_id > 1) for token_id in range(4)]
    assert shown == ["ab", "a", "bc", ""]
    assert stream.stopped


@given(texts, stop_lists)
def test_no_more_is_held_back_than_could_become_a_stop_string(text: str, stops: list[str]) -> None:
    finder = StopFinder(prepare_stops(stops))
    shown = finder.push(text)
    held = text[len(shown) :]
    if finder.found is None:
        assert held == "" or any(stop.startswith(held) for stop in stops)
        assert not any(stop != held[1:] and stop.startswith(text[len(shown) - 1 :]) for stop in stops if shown)


def test_the_stop_string_that_is_complete_first_wins() -> None:
    finder = StopFinder(prepare_stops(["abcd", "bc"]))
    assert finder.push("xabcd") == "xa"
    assert finder.found == "bc"


def test_of_two_that_are_complete_at_once_the_longest_is_cut() -> None:
    finder = StopFinder(prepare_stops(["c", "abc"]))
    assert finder.push("xabc") == "x"
    assert finder.found == "abc"


def test_a_false_start_is_shown_once_it_cannot_go_on() -> None:
    finder = StopFinder(prepare_stops(["aab"]))
    assert [finder.push(piece) for piece in ("a", "a", "a", "c")] == ["", "", "a", "aac"]


def test_failure_table_of_the_textbook_pattern() -> None:
    assert failure_table("ababaca") == (0, 0, 0, 1, 2, 3, 0, 1)
