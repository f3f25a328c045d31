import pytest

from shoal.core.readiness import HealthConfig, HealthState, Readiness, decide_readiness

CONFIG = HealthConfig(window_s=10.0, canary_deadline_s=5.0)


@pytest.mark.parametrize(
    ("last_token_s", "canary_sent_s", "expected"),
    [
        (None, None, Readiness.RUN_CANARY),
        (95.0, None, Readiness.READY),
        (90.0, None, Readiness.READY),
        (89.9, None, Readiness.RUN_CANARY),
        (None, 97.0, Readiness.AWAIT_CANARY),
        (None, 95.0, Readiness.AWAIT_CANARY),
        (None, 94.9, Readiness.NOT_READY),
        (50.0, 97.0, Readiness.AWAIT_CANARY),
        (50.0, 80.0, Readiness.NOT_READY),
        (81.0, 80.0, Readiness.RUN_CANARY),
        (99.0, 20.0, Readiness.READY),
    ],
)
def test_readiness_at_100_s(last_token_s, canary_sent_s, expected):
    state = HealthState(last_token_s=last_token_s, canary_sent_s=canary_sent_s)
    assert decide_readiness(CONFIG, state, 100.0) is expected
