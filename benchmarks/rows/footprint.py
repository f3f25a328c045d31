"""The rows of `peers.py` that compare memory, and how soon the first token comes."""

from __future__ import annotations

from collections.abc import Iterator

from engines.model_files import file_bytes
from engines.openvino import OpenVino
from engines.streams import CONTEXT, run_for_memory

from rows.comparison import Ceiling, Comparison, Contender
from rows.setup import NUM_THREADS, Model, Setup, random

_ALLOWANCE_BYTES = 60_000_000
"""what each process may hold beside its part of the model"""
_RESIDENT, _PEAK = "resident", "peak while loading"
_FIRST_TOKEN = "start to first token"
_GB = 1_000_000_000


def memory(setup: Setup) -> Iterator[Comparison]:
    """What a loaded model takes, and what loading it takes."""
    models = [random("qwen2-0.5b-q4_k_m")] if "small" in setup.sizes else []
    models += [random("llama-1.1b-q4_0")] if "large" in setup.sizes else []
    for model in models:
        yield Comparison(
            title=f"memory: {model.name}, room for one stream of {CONTEXT} tokens, less 60 MB a process",
            unit="times the file",
            contenders=list(_loaded(setup, model, file_bytes(model.file), _ALLOWANCE_BYTES)),
            ceilings=[
                Ceiling(contender="Shoal", load=_RESIDENT, at_most=1.25),
                Ceiling(contender="Shoal dp=2", load=_RESIDENT, at_most=1.4),
                Ceiling(contender="Shoal", load=_PEAK, at_most=1.4),
                Ceiling(contender="Shoal dp=2", load=_PEAK, at_most=1.4),
            ],
        )


def memory_8b(setup: Setup) -> Iterator[Comparison]:
    """Whether a machine of 8 GB can run a model of 8 B."""
    model = random("llama-8b-q4_k_m")
    yield Comparison(
        title=f"memory-8b: {model.name}, room for one stream of {CONTEXT} tokens",
        unit="GB",
        contenders=[
            contender for contender in _loaded(setup, model, _GB, 0) if contender.name in ("Shoal", "llama-server")
        ],
        ceilings=[Ceiling(contender="Shoal", load=_PEAK, at_most=7.0)],
    )


def start(setup: Setup) -> Iterator[Comparison]:
    """From nothing to the first token, everything that can be kept from earlier starts being kept."""
    for model in setup.models():
        yield Comparison(
            title=f"start: {model.name}, from starting a command to its first output",
            unit="s",
            contenders=[
                model.shoal("Shoal", lambda shoal: {_FIRST_TOKEN: shoal.first_token()}),
                *setup.llama_cpp(
                    "llama.cpp", model, lambda llama: {_FIRST_TOKEN: llama.first_token(threads=NUM_THREADS)}
                ),
            ],
            ceilings=[Ceiling(contender="Shoal", load=_FIRST_TOKEN, at_most=1.0 if model.is_small else 1.5)],
            num_warm_ups=1,
        )


def _loaded(setup: Setup, model: Model, divisor_bytes: int, allowance_bytes: int) -> Iterator[Contender]:
    """Every engine that reads the file, which all read as it is."""
    for name, split, threads in (("Shoal", "1", NUM_THREADS), ("Shoal dp=2", "dp=2", 1)):
        yield model.shoal(
            name,
            lambda shoal, split=split, threads=threads: run_for_memory(
                shoal.serving(split=split, threads=threads, slots=1), divisor_bytes, allowance_bytes
            ),
        )
    if setup.found.llama_cpp:
        yield setup.llama_cpp_as_is(
            "llama-server",
            model.file,
            lambda llama: run_for_memory(llama.serving(threads=NUM_THREADS, slots=1), divisor_bytes, allowance_bytes),
        )
    if python := setup.found.openvino:
        openvino = OpenVino(python, model.file)
        yield Contender(
            name="OpenVINO GenAI",
            engine="OpenVINO GenAI",
            model=model.file,
            measure=lambda: run_for_memory(
                openvino.serving(threads=NUM_THREADS, slots=1), divisor_bytes, allowance_bytes
            ),
        )
