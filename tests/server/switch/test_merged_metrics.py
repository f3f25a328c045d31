"""Several pages of metrics as one, which Prometheus's own parser reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from shoal.core.plan.language import PredictedSpeed
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.switch.merged_metrics import merge_metrics

PREDICTED = PredictedSpeed(streams=8, prompt_tokens=1, output_tokens=1, output_tokens_per_s=1.0, ttft_s=1.0, tpot_s=1.0)


def test_each_family_stands_once_with_the_samples_of_all() -> None:
    pages = [ServerMetrics(name, predicted).expose().decode() for name, predicted in (("a", None), ("b", PREDICTED))]
    merged = merge_metrics(pages)
    heads = [line for line in merged.splitlines() if line.startswith("#")]
    assert len(heads) == len(set(heads))
    samples = {
        (sample.name, *sample.labels.items()): sample.value
        for family in text_string_to_metric_families(merged)
        for sample in family.samples
    }
    separate = [
        (sample.name, *sample.labels.items())
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    assert sorted(samples) == sorted(separate)
    assert {dict(labels)["model_name"] for _, *labels in samples} == {"a", "b"}


def test_names_may_hold_other_ends_of_lines() -> None:
    name = "a\u2028b\x85c\x0cd\re"
    merged = merge_metrics([ServerMetrics(name).expose().decode()])
    families = text_string_to_metric_families(merged)
    assert {sample.labels["model_name"] for family in families for sample in family.samples} == {name}


def test_no_pages_are_no_metrics() -> None:
    assert merge_metrics([]) == ""
