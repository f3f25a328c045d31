"""`python -m tests.fuzz.files.child FORMAT FIRST LAST FOLDER`: read changed files under limits of memory and time.

What a file may bring out is one error of Shoal's own. A file that makes the reader take more processor time than the
limit, or crash, ends this process: the number of the input is in FOLDER/current then.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

from shoal.errors import ShoalError
from tests.fuzz.files.formats import FORMATS, Files, Format

PROCESSOR_S = 5.0
"""Processor time that one file of a few kilobytes may take."""
MEMORY_BYTES = 1 << 30
"""Address space that reading may add to what the process has after its imports."""


def make_input(name: str, index: int) -> Files:
    """Input `index` of a format: always the same."""
    files = FORMATS[name].good()
    if index:
        FORMATS[name].change(files, random.Random(f"{name} {index}"))
    return files


def write_files(files: Files, folder: Path) -> None:
    """Nothing else is in the folder then."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def find_flaw(form: Format, folder: Path, subject: Path) -> str | None:
    """What comes out of reading other than a clear refusal."""
    path = folder if form.is_folder else subject
    try:
        form.read(path)
    except ShoalError as error:
        if isinstance(error.__cause__, MemoryError):
            return f"asks for more than {MEMORY_BYTES >> 20} MiB of memory: {error}"
        return None if str(error).strip() else f"{type(error).__name__} without a message"
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
        return f"{type(error).__name__}: {str(error)[:300]} at {where}"
    return None


def main() -> int:
    """Exit status 0 however many flaws there are; they are lines of JSON on stdout."""
    name, first, last, root = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    form = FORMATS[name]
    warnings.simplefilter("ignore")
    folder, current = root / "input", os.open(root / "current", os.O_RDWR | os.O_CREAT)
    write_files(form.good(), folder)
    if flaw := find_flaw(form, folder, folder / next(iter(form.good()))):
        print(json.dumps({"index": 0, "flaw": f"the good file is refused: {flaw}"}), flush=True)
        return 0
    form.read(folder if form.is_folder else folder / next(iter(form.good())))
    faulthandler.register(signal.SIGPROF, chain=True)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, resource.RLIM_INFINITY))
    for index in range(first, last):
        os.pwrite(current, f"{index:<20}".encode(), 0)
        write_files(make_input(name, index), folder)
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_S)
        flaw = find_flaw(form, folder, folder / next(iter(form.good())))
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        if flaw is not None:
            print(json.dumps({"index": index, "flaw": flaw}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
