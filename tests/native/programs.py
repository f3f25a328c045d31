"""C++ programs of the tests: compiled once a run, whoever of several test processes comes first, for this processor or
for arm64 under qemu."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w", f"-I{ROOT / 'native'}")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
_AVX512_FEATURES = ("avx2", "fma", "f16c", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
_PLAIN_TILES = f'-DSHOAL_TILES="{ROOT / "tests/native/plain_tiles.h"}"'
_ARM64 = ("aarch64-linux-gnu-g++", "qemu-aarch64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An instruction set that programs are compiled for."""

    compiler: str = "g++"
    options: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """that the processor must have, as /proc/cpuinfo names them"""
    emulator: str = ""

    def why_not(self) -> str:
        """What is missing here to compile and run for it; empty: nothing."""
        tools = [tool for tool in (self.compiler, self.emulator) if tool and shutil.which(tool) is None]
        if tools:
            return f"{' and '.join(tools)} is not installed"
        if not self.emulator and platform.machine() != "x86_64":
            return "this processor is not an x86"
        present = Path("/proc/cpuinfo").read_text().split() if self.features else []
        missing = [feature for feature in self.features if feature not in present]
        return f"this processor has no {', '.join(missing)}" if missing else ""


TARGETS: Mapping[str, Target] = {
    "baseline": Target(options=("-O1",)),
    "avx2": Target(options=("-O1", *_AVX2), features=("avx2", "fma", "f16c")),
    "avxvnni": Target(options=("-O1", *_AVX2, "-mavxvnni"), features=("avx2", "fma", "f16c", "avx_vnni")),
    "avx512vnni": Target(options=("-O1", *_AVX512), features=_AVX512_FEATURES),
    "amx": Target(
        options=("-O1", *_AVX512, "-mamx-tile", "-mamx-int8", '-DSHOAL_TILES="tiles_amx.h"'),
        features=(*_AVX512_FEATURES, "amx_tile", "amx_int8"),
    ),
    "amx-emulated": Target(options=("-O1", _PLAIN_TILES)),
    "amx-emulated-avx512vnni": Target(options=("-O1", *_AVX512, _PLAIN_TILES), features=_AVX512_FEATURES),
    "arm64": Target(compiler=_ARM64[0], options=("-O1", "-static"), emulator=_ARM64[1]),
    "arm64-dotprod": Target(
        compiler=_ARM64[0], options=("-O1", "-static", "-march=armv8.2-a+dotprod"), emulator=_ARM64[1]
    ),
    "arm64-i8mm": Target(
        compiler=_ARM64[0], options=("-O1", "-static", "-march=armv8.2-a+dotprod+i8mm"), emulator=_ARM64[1]
    ),
}


def run_program(
    factory: pytest.TempPathFactory,
    target: str,
    source: Path,
    *,
    more: Sequence[Path | str] = (),
    arguments: Sequence[str] = (),
    timeout_s: float = 100,
) -> str:
    """What a program prints. Skips the test where it cannot be compiled or run.

    Args:
        factory: whose folder all test processes of a run share.
        target: one of TARGETS.
        source: the file with `main`.
        more: files and options that it is compiled with.
        arguments: of the program.
        timeout_s: of either compiling or running.
    """
    one = TARGETS[target]
    if reason := one.why_not():
        pytest.skip(reason)
    program = _shared_folder(factory) / f"{source.stem}-{target}"
    with program.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            command = [one.compiler, *FLAGS, *one.options, str(source), *map(str, more), "-o", f"{program}.new"]
            subprocess.run(command, check=True, timeout=timeout_s)
            Path(f"{program}.new").rename(program)
    command = [*([one.emulator] if one.emulator else []), str(program), *arguments]
    return subprocess.run(command, check=True, timeout=timeout_s, capture_output=True, text=True).stdout


def _shared_folder(factory: pytest.TempPathFactory) -> Path:
    """One for all processes of pytest-xdist, whose own folders lie in a common one."""
    own = factory.getbasetemp()
    folder = (own.parent if own.name.startswith("popen-") else own) / "programs"
    folder.mkdir(exist_ok=True)
    return folder
