"""`make sanitize`: the native part and its stress programs with GCC's sanitizers, all instruction sets included.

Compiles into build/sanitize and runs what came of it. Ends with 1 where a sanitizer or a program complains.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.native.programs import FLAGS, ROOT, TARGETS

SANITIZERS = {"memory": "address,undefined", "threads": "thread"}
KERNELS = ("attention/kernel.cpp", "gemm/kernel.cpp", "layers/kernel.cpp")
PROGRAMS = ("pool_stress", "stage_stress")
ALONE = {"product_bits": "amx-emulated"}
"""programs with kernels of their own, and the target that they are compiled for"""
ISAS = {"baseline": KERNELS, "avx2": KERNELS, "avxvnni": KERNELS, "avx512vnni": KERNELS, "amx": ("gemm/kernel.cpp",)}
COMMON = (*FLAGS, "-O1", "-g", "-pthread", "-fno-sanitize-recover=all", "-DSHOAL_X86")
LEFT_OUT = ("bindings", "module.cpp", "comm/", "formats/", "kernel.cpp")
"""What needs Python, or is no part of a stage."""


def sources() -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    """Name of the object, source and options of everything that the programs are made of."""
    native = ROOT / "native"
    for path in sorted(native.rglob("*.cpp")):
        name = str(path.relative_to(native))
        if not any(part in name for part in LEFT_OUT):
            yield name, path, ()
    for isa, kernels in ISAS.items():
        options = TARGETS[isa].options[1:]
        names = (f"-DSHOAL_ISA={isa}", f'-DSHOAL_ISA_NAME="{isa}"', "-DSHOAL_ISA_FLOPS=1e9")
        for kernel in kernels:
            yield f"{isa}-{kernel}", native / kernel, (*options, *names)
    for program in (*PROGRAMS, *ALONE):
        options = TARGETS[ALONE[program]].options[1:] if program in ALONE else ()
        yield program, ROOT / "tests/native" / f"{program}.cpp", options


def compiled(folder: Path, sanitizer: str) -> dict[str, Path]:
    """Objects by name, several compiled at once."""
    objects = {name: folder / f"{name.replace('/', '-')}.o" for name, _, _ in sources()}

    def compile_one(name: str, source: Path, options: tuple[str, ...]) -> None:
        command = ["g++", *COMMON, f"-fsanitize={sanitizer}", *options, "-c", str(source), "-o", str(objects[name])]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done in [threads.submit(compile_one, *one) for one in sources()]:
            done.result()
    return objects


def main() -> int:
    """Exit status of the whole."""
    failed = 0
    for name, sanitizer in SANITIZERS.items():
        folder = ROOT / "build" / "sanitize" / name
        folder.mkdir(parents=True, exist_ok=True)
        objects = compiled(folder, sanitizer)
        parts = [str(path) for part, path in objects.items() if part not in (*PROGRAMS, *ALONE)]
        for program in (*PROGRAMS, *ALONE):
            linked, needed = folder / program, [] if program in ALONE else parts
            command = ["g++", "-pthread", f"-fsanitize={sanitizer}", str(objects[program]), *needed, "-o", str(linked)]
            subprocess.run(command, check=True)
            ended = subprocess.run([str(linked)], check=False, stdout=subprocess.PIPE, text=True)
            is_good = ended.returncode == 0
            words = "good" if is_good else f"ended with {ended.returncode}\n{ended.stdout}"
            print(f"{program} with {sanitizer}: {words}", flush=True)
            failed += not is_good
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
