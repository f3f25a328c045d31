"""`make sanitize`: the native part and its stress programs with GCC's sanitizers.

Memory and arithmetic are checked on every instruction set, since each has loads of its own. Data races are looked for
on the portable one alone: what threads share is the same source for all. Compiles into build/sanitize and runs what
came of it. Ends with 1 where a sanitizer or a program complains, or a program does not end in time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.native.programs import FLAGS, ROOT, TARGETS

NATIVE = ROOT / "native"
KERNELS = tuple(sorted(str(path.relative_to(NATIVE)) for path in NATIVE.glob("*/kernel.cpp")))
ISAS = {"baseline": KERNELS, "avx2": KERNELS, "avxvnni": KERNELS, "avx512vnni": KERNELS, "amx": ("gemm/kernel.cpp",)}
PROGRAMS: Mapping[str, str] = {"pool_stress": "", "stage_stress": "", "product_bits": "amx-emulated"}
"""programs, and of those with kernels of their own the target that they are compiled for"""
COMMON = (*FLAGS, "-O1", "-g1", "-pthread", "-fno-sanitize-recover=all")
LEFT_OUT = ("bindings", "bound_layer.cpp", "module.cpp", "comm/", "formats/", "kernel.cpp")
"""What needs Python, or is no part of a stage."""
TIMEOUT_S = 600.0
"""of a program: the slowest takes half a minute on two idle cores"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanitizer:
    """GCC's name, and what runs under it."""

    name: str
    options: tuple[str, ...]
    isas: tuple[str, ...]
    programs: tuple[str, ...]


SANITIZERS = (
    Sanitizer(name="address,undefined", options=("-DSHOAL_X86",), isas=tuple(ISAS), programs=tuple(PROGRAMS)),
    Sanitizer(name="thread", options=(), isas=("baseline",), programs=("pool_stress", "stage_stress")),
)


def sources(sanitizer: Sanitizer) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    """Name of the object, source and options of everything that the programs are made of."""
    for path in sorted(NATIVE.rglob("*.cpp")):
        name = str(path.relative_to(NATIVE))
        if not any(part in name for part in LEFT_OUT):
            yield name, path, ()
    for isa in sanitizer.isas:
        options = TARGETS[isa].options[1:]
        names = (f"-DSHOAL_ISA={isa}", f'-DSHOAL_ISA_NAME="{isa}"', "-DSHOAL_ISA_FLOPS=1e9")
        for kernel in ISAS[isa]:
            yield f"{isa}-{kernel}", NATIVE / kernel, (*options, *names)
    for program in sanitizer.programs:
        target = PROGRAMS[program]
        yield program, ROOT / "tests/native" / f"{program}.cpp", TARGETS[target].options[1:] if target else ()


def compiled(folder: Path, sanitizer: Sanitizer) -> dict[str, Path]:
    """Objects by name, several compiled at once."""
    parts = list(sources(sanitizer))
    objects = {name: folder / f"{name.replace('/', '-')}.o" for name, _, _ in parts}

    def compile_one(name: str, source: Path, options: tuple[str, ...]) -> None:
        flags = (*COMMON, *sanitizer.options, f"-fsanitize={sanitizer.name}", *options)
        subprocess.run(["g++", *flags, "-c", str(source), "-o", str(objects[name])], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done in [threads.submit(compile_one, *one) for one in parts]:
            done.result()
    return objects


def complaint(program: Path) -> str:
    """What a program that does not end well says; empty: it ends well."""
    try:
        ended = subprocess.run([program], check=False, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"did not end within {TIMEOUT_S:g} s"
    return f"ended with {ended.returncode}\n{ended.stdout}" if ended.returncode else ""


def main() -> int:
    """Exit status of the whole."""
    failed = 0
    for sanitizer in SANITIZERS:
        started_s = time.monotonic()
        folder = ROOT / "build" / "sanitize" / sanitizer.name
        folder.mkdir(parents=True, exist_ok=True)
        objects = compiled(folder, sanitizer)
        print(f"{len(objects)} files compiled in {time.monotonic() - started_s:.0f} s", flush=True)
        shared = [str(path) for name, path in objects.items() if name not in PROGRAMS]
        for name in sanitizer.programs:
            started_s = time.monotonic()
            needed = [] if PROGRAMS[name] else shared
            command = ["g++", "-pthread", f"-fsanitize={sanitizer.name}", str(objects[name]), *needed]
            subprocess.run([*command, "-o", str(folder / name)], check=True)
            words = complaint(folder / name)
            took_s = time.monotonic() - started_s
            print(f"{name} with {sanitizer.name}: {words or 'good'} ({took_s:.0f} s)", flush=True)
            failed += words != ""
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
