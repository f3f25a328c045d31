import pytest

from shoal.planner.speeds.speeds import Curve, LinkSpeed


def test_a_curve_is_linear_between_its_points_and_beyond_the_last():
    curve = Curve(rows=(2, 4, 8), seconds=(1.0, 2.0, 6.0))
    assert [curve.at(rows) for rows in (2, 3, 4, 6, 8, 10)] == [1.0, 1.5, 2.0, 4.0, 6.0, 8.0]


def test_a_curve_is_flat_below_its_first_point_and_nothing_at_no_rows():
    curve = Curve(rows=(2, 4), seconds=(1.0, 2.0))
    assert (curve.at(1), curve.at(0)) == (1.0, 0.0)


def test_a_curve_of_one_point_is_flat():
    assert Curve(rows=(1,), seconds=(3.0,)).at(100) == 3.0


def test_a_link_takes_its_latency_and_its_bytes():
    assert LinkSpeed(latency_s=1.0, bytes_per_s=10.0).seconds(20) == pytest.approx(3.0)


def test_beyond_the_measured_rows_noise_makes_nothing_faster():
    """Few rows that were disturbed would else make many take less than no time."""
    assert Curve(rows=(1, 4), seconds=(2.0, 1.0)).at(40) == 1.0
