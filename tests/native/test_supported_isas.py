"""The instruction sets that are offered are those that the processor and its operating system have."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest

from shoal.model.attention.paged_attention import native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18
"""Source: Linux, arch/x86/entry/syscalls/syscall_64.tbl and Documentation/arch/x86/xstate.rst"""
NEEDS = {
    "x86_64": {
        "amx": {"amx_tile", "amx_int8", "avx512_vnni", "avx512vl"},
        "avx512vnni": {"avx512_vnni", "avx512vl"},
        "avxvnni": {"avx_vnni", "avx2"},
        "avx2": {"avx2", "fma"},
        "baseline": set[str](),
    },
    "aarch64": {"i8mm": {"i8mm", "asimddp"}, "dotprod": {"asimddp"}, "baseline": set[str]()},
}
"""What /proc/cpuinfo names for each set, best first."""


def may_use_tiles() -> bool:
    """Asks the kernel for this process, as the extension does: asking twice changes nothing."""
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0


@pytest.mark.skipif(platform.machine() not in NEEDS, reason="only known for x86-64 and arm64")
def test_what_is_offered() -> None:
    from shoal._native import supported_isas

    present = set(Path("/proc/cpuinfo").read_text().split())
    expected = [isa for isa, needs in NEEDS[platform.machine()].items() if needs <= present]
    if "amx" in expected and not may_use_tiles():
        expected.remove("amx")
    assert supported_isas() == expected
