"""Products that a measuring process times: those of the stages, natively or in ONNX Runtime."""

from __future__ import annotations

import pytest

from shoal.errors import ConfigError
from shoal.model.attention.paged_attention import native_available
from shoal.protocol.profile_messages import TimeLimits, TimeProduct
from shoal.worker.measuring import profile_rates
from shoal.worker.measuring.profile_rates import product, repeat

ONCE = TimeLimits(min_runs=1, max_runs=1, enough_s=0.0)


def asked(precision: str = "int4", rows: int = 2) -> TimeProduct:
    return TimeProduct(precision=precision, rows=rows, num_in=64, num_out=32, limits=ONCE)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("environment", [{}, {"SHOAL_NATIVE": "0"}, {"SHOAL_ISA": "baseline"}])
def test_every_precision_is_multiplied(
    precision: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment.get("SHOAL_ISA") and not native_available():
        pytest.skip("no native extension")
    made: list[str] = []
    for form in ("_native_product", "_runtime_product"):
        original = getattr(profile_rates, form)
        monkeypatch.setattr(
            profile_rates, form, lambda *args, form=form, original=original: (made.append(form), original(*args))[1]
        )
    (seconds,) = repeat(product(asked(precision), 1, environment), ONCE)
    assert seconds > 0
    is_native = native_available() and environment.get("SHOAL_NATIVE") != "0"
    assert made == ["_native_product" if is_native else "_runtime_product"]


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="no products at precision 'int3'"):
        product(asked("int3"), 1, {})
    with pytest.raises(ConfigError, match="SHOAL_NATIVE=2"):
        product(asked(), 1, {"SHOAL_NATIVE": "2"})
