"""`shoal plan --add`: machines on offer, compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Shoal
from tests.model.formats.test_settings_only import write_settings

SMALL = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 1024}
PRESENT = """
machines:
  - {name: old, count: 2, cores: 8, memory: 8G, rates: {memory_bytes_per_s: 2e10, fp32_flops_per_s: 2e11}}
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}
"""
RATES = "rates: {memory_bytes_per_s: 2e10, fp32_flops_per_s: 2e11}"
FASTER = "rates: {memory_bytes_per_s: 2e11, fp32_flops_per_s: 2e12}"
SLOW = "rates: {memory_bytes_per_s: 1e9, fp32_flops_per_s: 1e10}"


@pytest.fixture
def ask(shoal: Shoal, tmp_path: Path):
    """The comparison of some offers, as JSON; with `complains` the one line that says what is wrong."""

    def ask(*offers: str, streams: int = 96, complains: bool = False):
        model = write_settings(tmp_path / "config.json", **SMALL)
        for name, text in (("present.yaml", PRESENT), ("offers.yaml", f"machines: [{', '.join(offers)}]")):
            (tmp_path / name).write_text(text)
        files = ("--cluster", tmp_path / "present.yaml", "--add", tmp_path / "offers.yaml")
        result = shoal("plan", model, *files, "--streams", streams, "--objective", "throughput", "--json")
        return result.complaint if complains else result.json

    return ask


def test_the_best_for_its_price_comes_first(ask) -> None:
    same = f"{{name: same, cores: 8, memory: 8G, price_per_hour: 1, {RATES}}}"
    fast = f"{{name: fast, cores: 8, memory: 8G, price_per_hour: 100, {FASTER}}}"
    found = ask(fast, same)
    first, second = found["offers"]
    assert (first["machine"], second["machine"]) == ("same", "fast")
    assert first["gain"] == pytest.approx(0.5, abs=0.1)  # a third machine like the two that there are
    assert second["gain"] > first["gain"]
    assert first["least_gain"] < first["gain"] < first["most_gain"]
    assert first["tokens_per_s"] <= first["bound_tokens_per_s"]
    assert found["advice"].startswith("buy same: it adds most for its price, +")


def test_without_prices_the_largest_gain_comes_first(ask) -> None:
    found = ask(f"{{name: same, cores: 8, memory: 8G, {RATES}}}", f"{{name: fast, cores: 8, memory: 8G, {FASTER}}}")
    assert [offer["machine"] for offer in found["offers"]] == ["fast", "same"]
    assert found["advice"].startswith("buy fast: it helps most")


def test_what_adds_less_than_predictions_err_is_not_bought(ask) -> None:
    found = ask(f"{{name: slow, cores: 1, memory: 8G, price_per_hour: 0.01, {SLOW}}}")
    assert not found["offers"][0]["is_worth_it"]
    assert found["advice"].startswith("do not buy: the most that any would add is ")


def test_one_that_is_better_alone_is_not_split(ask) -> None:
    found = ask(f"{{name: fast, cores: 8, memory: 8G, {FASTER}}}", streams=1)
    assert found["offers"][0]["plan"] == "1 on fast"
    assert "do not split" in found["advice"]


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ("{name: here, cpus: [0]}", "machine here is at hand"),
        (f"{{name: old, cores: 8, memory: 8G, {RATES}}}", "there is already a machine named old"),
    ],
)
def test_offers_that_make_no_sense(ask, offer: str, said: str) -> None:
    assert said in ask(offer, complains=True)


def test_a_person_sees_a_table(shoal: Shoal, tmp_path: Path) -> None:
    model = write_settings(tmp_path / "config.json", **SMALL)
    (tmp_path / "present.yaml").write_text(PRESENT)
    (tmp_path / "offers.yaml").write_text(
        f"machines: [{{name: fast, cores: 8, memory: 8G, price_per_hour: 2, {FASTER}}}]"
    )
    result = shoal("plan", model, "--cluster", tmp_path / "present.yaml", "--add", tmp_path / "offers.yaml")
    assert result.status == 0, result.stderr
    assert "without any:" in result.stdout
    assert "buy fast" in result.stdout
