"""What the kernels compute has the same bits for every instruction set that can be compiled and run here, arm64 under
qemu included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.programs import TARGETS, run_program

HERE = Path(__file__).parent
NUM_HASHES = {"lanes_bits": 18, "product_bits": 38}


def hashes(factory: pytest.TempPathFactory, target: str, program: str) -> dict[str, str]:
    shown = run_program(factory, target, HERE / f"{program}.cpp")
    return dict(line.rsplit(" ", 1) for line in shown.splitlines())


@pytest.mark.parametrize(
    ("target", "program"),
    [
        *((target, "product_bits") for target in TARGETS if target != "baseline"),
        *((target, "lanes_bits") for target in ("avx2", "avx512vnni", "arm64")),  # on which the others have their lanes
    ],
)
def test_every_instruction_set(target: str, program: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = hashes(tmp_path_factory, "baseline", program)
    assert len(expected) == len(set(expected.values())) == NUM_HASHES[program]
    assert hashes(tmp_path_factory, target, program) == expected
