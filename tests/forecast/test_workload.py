"""From traffic to the load that is planned for."""

from math import ceil
from pathlib import Path

import pytest

from shoal.config import LaunchConfig, PlanningConfig
from shoal.errors import ConfigError
from shoal.forecast.simulate import TrafficSpec
from shoal.forecast.workload import expected_traffic, plan_for_traffic, with_streams
from tests.model.formats.test_settings_only import write_settings

MACHINES = """
machines:
  - {name: server, count: 2, cores: 32, memory: 64G, rates: {memory_bytes_per_s: 1.5e11, fp32_flops_per_s: 1.5e12}}
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}
"""


@pytest.fixture
def config(tmp_path: Path) -> LaunchConfig:
    model = write_settings(
        tmp_path / "config.json", hidden_size=512, intermediate_size=1024, num_hidden_layers=4, vocab_size=1024
    )
    (tmp_path / "machines.yaml").write_text(MACHINES)
    planning = PlanningConfig(cluster=str(tmp_path / "machines.yaml"), objective="throughput", settings_suffice=True)
    return LaunchConfig(model=str(model), split="auto", planning=planning)


def test_made_up_traffic_is_what_it_says() -> None:
    closed = expected_traffic(TrafficSpec(text="closed:7", prompt_tokens=10, output_tokens=3))
    assert (closed.clients, closed.prompt_tokens, closed.output_tokens) == (7, 10, 3)
    random = expected_traffic(TrafficSpec(text="poisson:2.5"))
    assert (random.clients, random.requests_per_s) == (None, 2.5)


def test_a_trace_counts_by_its_means(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("at_s,prompt_tokens,output_tokens\n0,10,1\n5,20,4\n10,30,4\n")
    found = expected_traffic(TrafficSpec(text=str(trace)))
    assert (found.prompt_tokens, found.output_tokens) == (20, 3)
    assert found.requests_per_s == pytest.approx(0.3)
    first = expected_traffic(TrafficSpec(text=str(trace), days=6 / 86400))
    assert (first.prompt_tokens, first.requests_per_s) == (15, pytest.approx(0.4))


def test_a_plan_is_for_the_requests_that_are_under_way(config: LaunchConfig) -> None:
    """Little's law: as many as come while one is answered."""
    lone = plan_for_traffic(with_streams(config, 1), None).plan.predicted
    assert lone is not None
    request_s = lone.ttft_s + (lone.output_tokens - 1) * lone.tpot_s
    expected = expected_traffic(TrafficSpec(text=f"poisson:{10 / request_s}"))
    planned = plan_for_traffic(config, expected).plan.predicted
    assert planned is not None
    assert planned.streams == ceil(expected.requests_per_s * request_s)
    closed = plan_for_traffic(config, expected_traffic(TrafficSpec(text="closed:5"))).plan.predicted
    assert closed is not None
    assert closed.streams == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [("closed:x", "give closed:N"), ("poisson:-1", "give poisson:RATE"), ("poisson:inf", "give poisson:RATE")],
)
def test_traffic_that_makes_no_sense(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        expected_traffic(TrafficSpec(text=text))
