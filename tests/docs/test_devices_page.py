"""docs/devices.md lists what the command tells users to install."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.core.plan.devices.providers import PROVIDERS

PAGE = Path(__file__).parents[2] / "docs" / "devices.md"
ROWS = {
    cells[1].strip(" `"): cells[3]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `") and len(cells := line.split("|")) > 4
}


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - {"coreml"}))  # it is part of ONNX Runtime for macOS
def test_what_to_install(name: str) -> None:
    command = PROVIDERS[name].install.rpartition("&& ")[2]
    assert {f"`{command}`", f"`{command.removeprefix('pip install ')}`"} & set(re.findall("`[^`]+`", ROWS[name]))


def test_every_provider_has_a_row() -> None:
    assert set(ROWS) >= set(PROVIDERS)
