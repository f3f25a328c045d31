import random

import pytest

from shoal.sim.sampling.intervals import BatchSums, margin, t_quantile


@pytest.mark.parametrize(
    ("freedom", "printed"), [(4, 2.776), (5, 2.571), (9, 2.262), (19, 2.093), (30, 2.042), (120, 1.980)]
)
def test_quantiles_of_students_t_are_those_of_printed_tables(freedom: int, printed: float) -> None:
    assert t_quantile(freedom) == pytest.approx(printed, rel=5e-3)


def test_sums_of_skipped_batches_are_within_the_margin_nineteen_times_of_twenty() -> None:
    rng = random.Random(0)
    num_within = 0
    for _ in range(2000):
        stretches: list[BatchSums] = []
        error = 0.0
        for skipped, spread in ((40, 1.0), (7, 3.0)):
            sums = [rng.gauss(5.0, spread) for _ in range(10)]
            stretches.append(BatchSums(sums=sums, skipped=skipped))
            error += sum(rng.gauss(5.0, spread) for _ in range(skipped)) - stretches[-1].expected
        num_within += abs(error) <= margin(stretches)
    assert 0.93 < num_within / 2000 < 0.97


def test_nothing_skipped_is_known_exactly() -> None:
    assert margin([]) == 0.0
    assert margin([BatchSums(sums=[1.0, 2.0], skipped=0.0)]) == 0.0
