"""Rows of tensors along any axis."""

import numpy as np
import pytest

from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest
from shoal.router.rows import count_rows, join_outputs, join_rows, pad_rows, signature, split_rows, take_rows

AXES = BatchAxes(inputs={"x": 0, "state": 1, "rate": None}, outputs={"y": 0, "next": 1}, rows=None)
NO_ROWS = BatchAxes(inputs={"x": None}, outputs={"y": None}, rows=None)


def make(rows: int, *, width: int = 3, rate: float = 16.0, first: int = 0) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + rows, dtype=np.float32)
    return {
        "x": numbers[:, None] + np.zeros((1, width), np.float32),
        "state": numbers[None, :, None] + np.zeros((2, 1, 4), np.float32),
        "rate": np.array(rate),
    }


def test_rows_are_counted_along_each_axis() -> None:
    assert count_rows(make(5), AXES) == 5


def test_a_graph_without_rows_counts_one() -> None:
    assert count_rows({"x": np.zeros((0, 3))}, NO_ROWS) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros((2, 4, 4))}, "x has 5, state has 4"),
        ({"state": np.zeros(2)}, "'state' has shape .2,., but its rows lie along axis 1"),
        ({"x": np.zeros((0, 3)), "state": np.zeros((2, 0, 4))}, "'x' has 0 rows"),
    ],
)
def test_inputs_without_a_number_of_rows_are_named(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        count_rows(make(5) | change, AXES)


def test_requests_that_differ_in_rows_alone_share_a_signature() -> None:
    assert signature(make(5), AXES) == signature(make(2, first=7), AXES)
    assert hash(signature(make(5), AXES)) == hash(signature(make(2, first=7), AXES))


@pytest.mark.parametrize(
    "other",
    [
        make(5, width=4),
        make(5, rate=8.0),
        make(5) | {"x": make(5)["x"].astype(np.float64)},
        make(5) | {"state": np.zeros((3, 5, 4), np.float32)},
    ],
)
def test_requests_that_differ_otherwise_do_not(other: dict[str, np.ndarray]) -> None:
    assert signature(make(5), AXES) != signature(other, AXES)


def test_shared_strings_are_compared_by_value() -> None:
    axes = BatchAxes(inputs={"x": 0, "label": None}, outputs={"y": 0}, rows=None)
    one, same, other = ({"x": np.zeros(2), "label": np.array([text], object)} for text in ("ab", "a" + "b", "c"))
    assert signature(one, axes) == signature(same, axes) != signature(other, axes)


def test_taking_all_rows_in_pieces_and_joining_them_gives_the_whole() -> None:
    whole = make(7)
    joined = join_rows([take_rows(whole, AXES, 0, 3), take_rows(whole, AXES, 3, 4), take_rows(whole, AXES, 4, 7)], AXES)
    for name, array in whole.items():
        np.testing.assert_array_equal(joined[name], array)


def test_a_single_part_is_not_copied() -> None:
    whole = make(7)
    assert join_rows([whole], AXES)["x"] is whole["x"]
    assert np.shares_memory(take_rows(whole, AXES, 2, 5)["state"], whole["state"])


def test_padding_repeats_the_last_row() -> None:
    padded = pad_rows(make(2, first=5), AXES, 4)
    np.testing.assert_array_equal(padded["x"][:, 0], [5, 6, 6, 6])
    np.testing.assert_array_equal(padded["state"][0, :, 0], [5, 6, 6, 6])
    assert padded["rate"].shape == ()


def test_strings_are_padded_too() -> None:
    axes = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=3)
    assert pad_rows({"x": np.array(["a", "b"], object)}, axes, 3)["x"].tolist() == ["a", "b", "b"]


def test_outputs_are_split_along_their_axes_and_the_padding_dropped() -> None:
    rows = make(6)
    parts = split_rows({"y": rows["x"], "next": rows["state"]}, AXES, [2, 3], 6)
    assert [part["y"][:, 0].tolist() for part in parts] == [[0, 1], [2, 3, 4]]
    assert [part["next"][1, :, 3].tolist() for part in parts] == [[0, 1], [2, 3, 4]]


def test_an_output_may_have_several_entries_a_row() -> None:
    axes = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
    first, second = split_rows({"y": np.arange(6)}, axes, [1, 2], 3)
    assert (first["y"].tolist(), second["y"].tolist()) == ([0, 1], [2, 3, 4, 5])


@pytest.mark.parametrize("y", [np.zeros((5, 3)), np.zeros(()), np.zeros((0, 3))])
def test_an_output_that_does_not_follow_the_rows_is_named(y: np.ndarray) -> None:
    axes = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
    with pytest.raises(InvalidRequest, match="output 'y'"):
        split_rows({"y": y}, axes, [1, 2], 3)


def test_a_batch_of_one_part_is_handed_on_whole_whatever_its_outputs_look_like() -> None:
    outputs = {"y": np.zeros(()), "next": np.zeros(7)}
    assert split_rows(outputs, AXES, [3], 3) == [outputs]


def test_outputs_of_parts_are_joined_in_order() -> None:
    first, second = ({"y": part["x"], "next": part["state"]} for part in (make(2), make(3, first=2)))
    joined = join_outputs([first, second], AXES)
    assert joined["y"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert joined["next"][0, :, 0].tolist() == [0, 1, 2, 3, 4]
