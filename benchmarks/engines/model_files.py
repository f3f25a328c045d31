"""Model files that the engines read: as given, in Q4_0 for llama.cpp, as a Hugging Face directory for vLLM."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gguf import GGUFReader
from random_models import cache_folder

_FILE_TYPE_Q4_0 = 2
"""Source: llama_ftype in llama.h."""


def q4_0_file(model: Path, quantizer: Path) -> Path:
    """The model in Q4_0, the format that llama.cpp computes fastest: the file itself, or one made of it and kept.

    By hand: `llama-quantize --allow-requantize MODEL.gguf OUT.gguf Q4_0`.
    """
    if GGUFReader(model).fields["general.file_type"].contents() == _FILE_TYPE_Q4_0:
        return model
    made = cache_folder() / f"{model.stem.lower()}-as-q4_0.gguf"
    if not made.exists():
        partial = made.with_suffix(".partial")
        command = [quantizer, "--allow-requantize", model, partial, "Q4_0"]
        subprocess.run(command, check=True, capture_output=True)
        partial.rename(made)
    return made


def file_bytes(model: Path) -> int:
    """Size of a model: of a directory, all that is in it."""
    if model.is_file():
        return model.stat().st_size
    return sum(file.stat().st_size for file in model.iterdir())
