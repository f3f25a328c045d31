"""Parsing of `--device`, `--device-precision`, `--provider-option` and a cluster file's `device:`."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import ConfigError
from shoal.protocol.device_config import FLOAT_PRECISIONS, DeviceConfig, FloatPrecision

CPU = "cpu"
AUTO = "auto"
GPU = "gpu"


def parse_device(text: str, what: str = "--device") -> DeviceConfig | None:
    """Parse `PROVIDER` or `PROVIDER:INDEX`; `cpu` gives None. Raises ConfigError, naming `what`."""
    name, colon, number = text.strip().lower().partition(":")
    if name == CPU and not colon:
        return None
    if name not in PROVIDERS:
        close = get_close_matches(name, [CPU, AUTO, GPU, *PROVIDERS], n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are cpu, gpu, auto, {', '.join(PROVIDERS)}"
        raise ConfigError(f"{what} {text}: there is no provider {name!r}; {hint}")
    if colon and not (number.isascii() and number.isdecimal() and len(number) <= 4):
        raise ConfigError(f"{what} {text}: give PROVIDER or PROVIDER:INDEX, such as webgpu:0")
    return DeviceConfig(provider=name, index=int(number or 0))


def parse_float_precision(text: str, what: str = "--device-precision") -> FloatPrecision:
    """Parse `fp32` or `fp16`. Raises ConfigError, naming `what`."""
    known: dict[str, FloatPrecision] = {one: one for one in FLOAT_PRECISIONS}
    found = known.get(text)
    if found is None:
        raise ConfigError(f"{what} is {text!r}, but it must be {' or '.join(FLOAT_PRECISIONS)}")
    return found


def parse_options(items: Sequence[str], what: str = "--provider-option") -> tuple[tuple[str, str], ...]:
    """Parse several `KEY=VALUE`. Raises ConfigError, naming `what`."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ConfigError(f"{what} {item}: give KEY=VALUE, such as device_id=1")
        if key in found:
            raise ConfigError(f"{what} {item}: {key} is given twice")
        found[key] = value
    return tuple(found.items())
