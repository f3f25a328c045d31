"""What a person reads who waits for measuring."""

from shoal.measure.steps_told import StepsTold


def test_steps_are_counted_and_the_time_left_follows_those_that_were_done():
    now_s, told = [10.0], list[str]()
    steps = StepsTold(told.append, 5, lambda: now_s[0])
    steps.begin("a")
    now_s[0] = 14.0
    steps.begin("b")
    now_s[0] = 16.0
    steps.begin("c")
    assert told == ["step 1 of 5: a", "step 2 of 5, about 16 s left: b", "step 3 of 5, about 9 s left: c"]


def test_what_was_known_is_skipped():
    told = list[str]()
    steps = StepsTold(told.append, 8, lambda: 0.0)
    steps.skip_to(3)
    steps.begin("a")
    assert told == ["step 4 of 8: a"]
