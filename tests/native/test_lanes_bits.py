"""What lanes and attention compute has the same bits for every instruction set that can be compiled and run here, arm64
under qemu included."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("lanes_bits.cpp")
FLAGS = ["-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w", "-I", str(ROOT / "native")]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
FEATURES = {"avx2": ["avx2", "fma", "f16c"], "avx512": ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"]}

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with x86"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
]


def hashes(folder: Path, compiler: str, options: list[str], emulator: list[str]) -> dict[str, str]:
    program = folder / "lanes_bits"
    subprocess.run([compiler, *FLAGS, *options, str(SOURCE), "-o", str(program)], check=True, timeout=100)
    shown = subprocess.run([*emulator, str(program)], check=True, timeout=100, capture_output=True, text=True).stdout
    return dict(line.rsplit(" ", 1) for line in shown.splitlines())


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = hashes(tmp_path_factory.mktemp("baseline"), "g++", ["-O1"], [])
    assert len(found) == len(set(found.values())) == 18
    return found


@pytest.mark.parametrize(
    ("name", "options"), [("avx2", ["-O2", *AVX2]), ("avx512", ["-O1", *AVX512])], ids=["avx2", "avx512"]
)
def test_every_x86_instruction_set(name: str, options: list[str], baseline: dict[str, str], tmp_path: Path) -> None:
    present = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if missing := [feature for feature in FEATURES[name] if feature not in present]:
        pytest.skip(f"this processor has no {', '.join(missing)}")
    assert hashes(tmp_path, "g++", options, []) == baseline


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="aarch64-linux-gnu-g++ is not installed")
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 (qemu-user) is not installed")
def test_arm64_under_qemu(baseline: dict[str, str], tmp_path: Path) -> None:
    found = hashes(tmp_path, "aarch64-linux-gnu-g++", ["-O2", "-static"], ["qemu-aarch64"])
    assert found == baseline
