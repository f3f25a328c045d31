"""C++ programs of the tests: compiled by whichever of several test processes comes first, for this processor or for
arm64 under qemu, and kept in `build` until a source, the compiler or its options change."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "native", ROOT / "tests/native")
PROGRAMS = ROOT / "build/test_programs"
FLAGS = ("-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w", f"-I{ROOT / 'native'}")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
_AVX512_FEATURES = ("avx2", "fma", "f16c", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
_PLAIN_TILES = f'-DSHOAL_TILES="{ROOT / "tests/native/plain_tiles.h"}"'
_TRAPPED_TILES = ('-DSHOAL_TILES="micro/tiles_amx.h"', "-include", str(ROOT / "tests/native/tile_traps.h"))
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
        options=("-O1", *_AVX512, "-mamx-tile", "-mamx-int8", '-DSHOAL_TILES="micro/tiles_amx.h"'),
        features=(*_AVX512_FEATURES, "amx_tile", "amx_int8"),
    ),
    "amx-trapped": Target(options=("-O1", *_AVX512, *_TRAPPED_TILES), features=_AVX512_FEATURES),
    "amx-emulated": Target(options=("-O1", _PLAIN_TILES)),
    "arm64": Target(compiler=_ARM64[0], options=("-O1", "-static"), emulator=_ARM64[1]),
    "arm64-dotprod": Target(
        compiler=_ARM64[0], options=("-O1", "-static", "-march=armv8.2-a+dotprod"), emulator=_ARM64[1]
    ),
    "arm64-i8mm": Target(
        compiler=_ARM64[0], options=("-O1", "-static", "-march=armv8.2-a+dotprod+i8mm"), emulator=_ARM64[1]
    ),
}


def run_program(
    target: str,
    source: Path,
    *,
    more: Sequence[Path | str] = (),
    arguments: Sequence[str] = (),
    timeout_s: float = 250,
) -> str:
    """What a program prints. Skips the test where it cannot be compiled or run.

    Args:
        target: one of TARGETS.
        source: the file with `main`.
        more: files and options that it is compiled with.
        arguments: of the program.
        timeout_s: of either compiling or running.
    """
    one = TARGETS[target]
    if reason := one.why_not():
        pytest.skip(reason)
    compile_it = [one.compiler, *FLAGS, *one.options, str(source), *map(str, more)]
    program = _compiled(f"{source.stem}-{target}", compile_it, timeout_s)
    command = [*([one.emulator] if one.emulator else []), str(program), *arguments]
    return subprocess.run(command, check=True, timeout=timeout_s, capture_output=True, text=True).stdout


def _compiled(name: str, command: Sequence[str], timeout_s: float) -> Path:
    """The program that a command makes; those of earlier states of the sources are removed."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    inputs = "\0".join([*command, _version(command[0]), _digest_of_sources()])
    program = PROGRAMS / f"{name}.{hashlib.sha256(inputs.encode()).hexdigest()}"
    with (PROGRAMS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            for old in set(PROGRAMS.glob(f"{name}.*")) - {PROGRAMS / f"{name}.lock"}:
                old.unlink()
            new = PROGRAMS / f"{name}.new"
            subprocess.run([*command, "-o", str(new)], check=True, timeout=timeout_s)
            new.rename(program)
    return program


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout


@cache
def _digest_of_sources() -> str:
    """Of every C++ file that a program may include or be compiled with."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for file in sorted(path for path in folder.rglob("*") if path.suffix in (".h", ".cpp")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
