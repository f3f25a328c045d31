import pytest

from shoal.measure.language.links import link_speed

SMALL, LARGE = 4096, 1 << 20


def test_latency_and_bandwidth_give_back_both_times():
    link = link_speed(20e-6, 500e-6)
    assert link.seconds(SMALL) == pytest.approx(20e-6)
    assert link.seconds(LARGE) == pytest.approx(500e-6)


@pytest.mark.parametrize(("small_s", "large_s"), [(1e-6, 1e-3), (3e-6, 2e-6), (5e-6, 5e-6)])
def test_neither_is_ever_negative_or_infinite(small_s, large_s):
    link = link_speed(small_s, large_s)
    assert link.latency_s >= 0
    assert 0 < link.bytes_per_s < float("inf")
