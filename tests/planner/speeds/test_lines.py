import pytest

from shoal.planner.speeds.lines import StraightLine, fit_line, slope


def test_points_on_a_line_give_it_back():
    line = fit_line([(rows, 2 + 3 * rows, 100.0) for rows in (1, 4, 9)], most=1.0)
    assert (line.start_s, line.row_s) == pytest.approx((2.0, 3.0))
    assert line.at(10) == pytest.approx(32.0)


def test_relative_errors_count():
    """A point that is 1 of 1000 off weighs less than one that is 1 of 10 off."""
    line = fit_line([(1, 5.0, 10.0), (1, 6.0, 1000.0)], most=1.0)
    assert line.at(1) == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize(
    ("points", "start_is_zero"),
    [([(1, 5.0, 10.0), (9, 1.0, 10.0)], False), ([(1, -3.0, 10.0), (9, 9.0, 10.0)], True)],
    ids=["falling", "starting below zero"],
)
def test_no_coefficient_is_negative(points, start_is_zero):
    line = fit_line(points, most=1.0)
    assert (line.start_s == 0.0, line.row_s == 0.0) == (start_is_zero, not start_is_zero)


def test_the_line_is_lowered_to_the_part_that_it_may_be():
    line = fit_line([(1, 8.0, 10.0), (2, 8.0, 20.0)], most=0.4)
    assert line.at(1) == pytest.approx(4.0)


def test_nothing_goes_through_no_points():
    assert fit_line([], most=1.0) == StraightLine()


def test_a_slope_needs_two_places():
    assert slope([(1.0, 2.0), (3.0, 6.0)]) == pytest.approx(2.0)
    assert slope([(1.0, 2.0), (1.0, 6.0)]) == 0.0
