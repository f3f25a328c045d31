"""vLLM's CPU build, which reads a Hugging Face directory: made of the GGUF file, in 32-bit floats."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_port, running
from report import instruction_sets

from engines.streams import MODEL_NAME, HttpServer, environment

_COPY = Path(__file__).parent / "inside" / "hugging_face_copy.py"
_MAX_CONTEXT = 512
_CACHE_GIB = "1"


class Vllm:
    """A Python that has vLLM, on one directory."""

    def __init__(self, python: Path, model: Path) -> None:
        self._python = python
        self._model = model

    @contextmanager
    def serving(self, *, slots: int) -> Iterator[HttpServer]:
        """A server on all cores. It computes in bfloat16 where AMX does, as that is the faster there."""
        port = free_port()
        dtype = "bfloat16" if "amx_bf16" in instruction_sets() else "float32"
        command = [str(self._python), "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._model)]
        command += ["--served-model-name", MODEL_NAME, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--dtype", dtype, "--max-model-len", str(_MAX_CONTEXT), "--max-num-seqs", str(slots)]
        command += ["--no-enable-prefix-caching"]
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        settings = environment(VLLM_CPU_KVCACHE_SPACE=_CACHE_GIB, VLLM_CPU_OMP_THREADS_BIND=cores, HF_HUB_OFFLINE="1")
        with running(command, health_url=f"http://127.0.0.1:{port}/health", env=settings):
            yield HttpServer(f"http://127.0.0.1:{port}")


def hugging_face_copy(python: Path, model: Path, folder: Path) -> Path:
    """The directory of a GGUF file under `folder`, made at the first call."""
    copy = folder / f"{model.stem.lower()}-fp32"
    if not copy.exists():
        print(f"writing {copy}", file=sys.stderr, flush=True)
        partial = folder / f"{copy.name}.partial"
        subprocess.run([python, _COPY, model, partial], check=True, capture_output=True)
        partial.rename(copy)
    return copy


def vllm_version(python: Path) -> str:
    """Of the packages."""
    script = "from importlib.metadata import version; print(version('vllm-cpu'), 'with torch', version('torch'))"
    return subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
