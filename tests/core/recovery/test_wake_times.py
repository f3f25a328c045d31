"""The earliest of times that change, against looking at all of them."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.core.recovery.wake_times import WakeTimes

changes = st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 9).map(float)), max_size=40)


@given(changes, st.integers(1, 5))
def test_the_earliest_is_what_looking_at_all_finds(changed: list[tuple[int, float | None]], every: int) -> None:
    wakes, times = WakeTimes(), dict[int, float | None]()
    for number, (index, time_s) in enumerate(changed):
        times[index] = time_s
        wakes.note_change(index)
        if number % every == 0:
            assert wakes.earliest_s(times.__getitem__) == min(
                (one for one in times.values() if one is not None), default=None
            )


def test_nobody_has_a_time() -> None:
    assert WakeTimes().earliest_s(lambda index: None) is None
