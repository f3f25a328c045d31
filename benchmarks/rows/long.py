"""The row of `peers.py` that compares long contexts."""

from __future__ import annotations

from collections.abc import Iterator

from engines import long_prompts
from engines.llama_cpp import LlamaCpp
from engines.reading import Readings
from engines.shoal import Shoal

from rows.comparison import Comparison, Contender, Goal
from rows.setup import NUM_THREADS, Model, Setup, random

_UNIT = "tokens/s"
_DEPTHS = (2048, 8000)
"""tokens of prompts, and before the first token of a decode; SmolLM2 sees 8192"""
_OUTPUT_TOKENS = 64
_AT_LEAST = 1.3
_CONTEXT = 8192


def long(setup: Setup) -> Iterator[Comparison]:
    """Long prompts, decode behind them, and a long prompt beside streams that decode."""
    for model in _models(setup):
        yield _comparison(setup, model, "prompts", {depth: f"{depth} tokens" for depth in _DEPTHS})
        yield _comparison(setup, model, "decode", {depth: f"behind {depth} tokens" for depth in _DEPTHS})
    if "small" in setup.sizes:
        yield _beside_streams(setup, setup.small_model())


def _models(setup: Setup) -> Iterator[Model]:
    """Those that see so much."""
    if "small" in setup.sizes:
        yield setup.small_model()
    if "large" in setup.sizes:
        yield random("qwen2-0.5b-q4_k_m")


def _comparison(setup: Setup, model: Model, what: str, loads: dict[int, str]) -> Comparison:
    """Prompts one at a time, or decode of one stream. llama.cpp attends in its fused form, which is its faster one."""
    references = ["llama.cpp"]
    contenders = [model.shoal("Shoal", lambda shoal: _of_shoal(shoal, what, loads))]
    contenders += setup.llama_cpp("llama.cpp", model, lambda llama: _of_llama_cpp(llama, what, loads, "f16"))
    if what == "decode":
        references.append("llama.cpp, 8-bit cache")
        contenders += setup.llama_cpp(references[1], model, lambda llama: _of_llama_cpp(llama, what, loads, "q8_0"))
    return Comparison(
        title=f"long: {model.name}, {what if what == 'prompts' else 'decode of one stream'}, {NUM_THREADS} threads",
        unit=_UNIT,
        contenders=contenders,
        goals=[
            Goal(reference=reference, load=load, at_least=_AT_LEAST)
            for reference in references
            for load in loads.values()
        ],
        flops_per_token=model.flops_per_token(),
    )


def _of_shoal(shoal: Shoal, what: str, loads: dict[int, str]) -> Readings:
    if what == "prompts":
        return {load: shoal.prefill(depth, split="1", threads=NUM_THREADS) for depth, load in loads.items()}
    return {
        load: shoal.decode(_OUTPUT_TOKENS, depth=depth, split="1", threads=NUM_THREADS) for depth, load in loads.items()
    }


def _of_llama_cpp(llama: LlamaCpp, what: str, loads: dict[int, str], cache: str) -> Readings:
    if what == "prompts":
        return {
            load: llama.bench(prompt_tokens=depth, output_tokens=0, threads=NUM_THREADS, cache=cache)
            for depth, load in loads.items()
        }
    return {
        load: llama.bench(prompt_tokens=0, output_tokens=_OUTPUT_TOKENS, threads=NUM_THREADS, depth=depth, cache=cache)
        for depth, load in loads.items()
    }


def _beside_streams(setup: Setup, model: Model) -> Comparison:
    """Ratios are those of the times of llama-server to Shoal's."""
    reference, slots = "llama-server", long_prompts.SLOTS

    def shoal(engine: Shoal) -> Readings:
        return long_prompts.run_long_prompts(
            engine.serving(split="1", threads=NUM_THREADS, slots=slots, context=_CONTEXT)
        )

    def llama(engine: LlamaCpp) -> Readings:
        return long_prompts.run_long_prompts(engine.serving(threads=NUM_THREADS, slots=slots, context=_CONTEXT))

    contenders: list[Contender] = [model.shoal("Shoal", shoal), *setup.llama_cpp(reference, model, llama)]
    loads = (
        long_prompts.GAP,
        long_prompts.FIRST,
        long_prompts.GAP_MEANWHILE,
        long_prompts.LONGEST_MEANWHILE,
        long_prompts.FIRST_SHARED,
    )
    return Comparison(
        title=f"long: {model.name}, {long_prompts.STREAMS} streams behind {long_prompts.STREAM_TOKENS} tokens each, "
        f"and prompts of {long_prompts.LONG_TOKENS} tokens that come to them, over HTTP, {NUM_THREADS} threads",
        unit="ms",
        contenders=contenders,
        goals=[Goal(contender=reference, reference="Shoal", load=load) for load in loads],
    )
