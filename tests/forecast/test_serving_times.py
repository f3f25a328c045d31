"""What the server takes beside the model: solved for from loads that were made up, and measured with a server."""

from pathlib import Path

import psutil
import pytest

from shoal.forecast.serving_times import Spent, serving_times, solve
from shoal.planner.speeds.serving import ServingTimes
from shoal.planner.speeds.speeds import ZERO, Curve
from tests.model.tiny_models import make_tiny_gguf


def spent(times: ServingTimes, turn_s: float, *, requests: int, tokens: int, together: int) -> Spent:
    """As much as such times make of a load whose requests run in step."""
    steps = requests * tokens / together
    head_s = requests * times.request_s + steps * (turn_s + times.step_s) + requests * tokens * times.token_s
    return Spent(head_s=head_s, client_s=requests * (times.client_request_s + tokens * times.client_token_s))


def test_three_loads_tell_requests_steps_and_tokens_apart() -> None:
    times = ServingTimes(request_s=2e-3, step_s=5e-4, token_s=4e-5, client_request_s=1e-3, client_token_s=1e-4)
    short = spent(times, 1e-4, requests=24, tokens=1, together=1)
    long = spent(times, 1e-4, requests=6, tokens=48, together=1)
    together = spent(times, 1e-4, requests=32, tokens=48, together=8)
    found = solve(short, long, together, Curve(rows=(1,), seconds=(1e-4,)))
    assert found.request_s == pytest.approx(times.request_s)
    assert found.step_s == pytest.approx(times.step_s)
    assert found.token_s == pytest.approx(times.token_s)
    assert found.client_request_s == pytest.approx(times.client_request_s)
    assert found.client_token_s == pytest.approx(times.client_token_s)


def test_noise_makes_nothing_negative() -> None:
    found = solve(
        Spent(head_s=0.5, client_s=0.5), Spent(head_s=0.01, client_s=0.01), Spent(head_s=1.0, client_s=0.0), ZERO
    )
    assert min(found.request_s, found.step_s, found.token_s, found.client_request_s, found.client_token_s) >= 0.0


def test_a_server_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = str(make_tiny_gguf(tmp_path, quant="F32"))
    before = psutil.Process().children(recursive=True)
    found = serving_times(model, 320, ZERO)
    assert found.request_s + found.step_s + found.token_s > 0.0
    assert found.client_request_s > 0.0
    assert set(psutil.Process().children(recursive=True)) <= set(before)  # a fork server of another test may end
    assert serving_times(model, 320, ZERO) == found  # to the last digit: it is the one that is kept
