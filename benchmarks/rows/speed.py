"""The rows of `peers.py` that compare speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from engines.openvino import OpenVino
from engines.reading import Readings
from engines.shoal import Shoal
from engines.streams import StreamLoad, run_streams, stream_label
from engines.vllm import Vllm, hugging_face_copy
from random_models import cache_folder
from report import instruction_sets

from rows.comparison import Comparison, Contender, Goal
from rows.setup import NUM_THREADS, Model, Setup, random

_UNIT = "tokens/s"
_PREFILL_TOKENS, _DECODE_TOKENS = 512, 64
_PREFILL, _DECODE = f"{_PREFILL_TOKENS} tokens", "1 stream"
_SPLITS = {"1": NUM_THREADS, "dp=2": 1, "pp=2": 1}
"""threads of each worker"""
_BUSY_STREAMS = (16, 32)
"""numbers of streams for which a ratio to other servers is asked for"""
_UNEVEN_STREAMS = (7, 13, 16)
_RPC_WORKERS = 2
_MOE_STREAMS = 8


def prefill(setup: Setup) -> Iterator[Comparison]:
    """Prompts of 512 tokens, one at a time."""
    wanted = 5.0 if "amx_int8" in instruction_sets() else 3.0 if "avx512_vnni" in instruction_sets() else 1.5
    for model in setup.models():
        contenders = [
            model.shoal(
                "Shoal", lambda shoal: {_PREFILL: shoal.prefill(_PREFILL_TOKENS, split="1", threads=NUM_THREADS)}
            ),
            *setup.llama_cpp(
                "llama.cpp",
                model,
                lambda llama: {
                    _PREFILL: llama.bench(prompt_tokens=_PREFILL_TOKENS, output_tokens=0, threads=NUM_THREADS)
                },
            ),
        ]
        yield Comparison(
            title=f"prefill: {model.name}, prompts of {_PREFILL_TOKENS} tokens, {NUM_THREADS} threads",
            unit=_UNIT,
            contenders=contenders,
            goals=[Goal(reference="llama.cpp", load=_PREFILL, at_least=wanted)],
            flops_per_token=model.flops_per_token(),
        )


def decode(setup: Setup) -> Iterator[Comparison]:
    """One stream, without its prompt."""
    for model in setup.models():
        yield _lone_decode(setup, model, "decode")


def moe(setup: Setup) -> Iterator[Comparison]:
    """Decode of a model with experts, the same file for all: one stream and eight, and experts over two workers."""
    model, load = random("qwen3-moe-3b-q4_0"), setup.load(_MOE_STREAMS)
    yield _lone_decode(setup, model, "moe")
    yield Comparison(
        title=f"moe: {model.name}, prompts of 128 tokens and 64 output tokens over HTTP, {NUM_THREADS} threads",
        unit=f"output {_UNIT}",
        contenders=[
            model.shoal("Shoal", _served("1", [load])),
            *setup.llama_cpp(
                "llama-server",
                model,
                lambda llama: run_streams(llama.serving(threads=NUM_THREADS, slots=_MOE_STREAMS), [load]),
            ),
        ],
        goals=[Goal(reference="llama-server", load=stream_label(_MOE_STREAMS), at_least=1.5)],
        flops_per_token=model.flops_per_token(),
    )
    yield _shared_by_two(model, at_least=1.6)


def serve(setup: Setup) -> Iterator[Comparison]:
    """Streams end to end over HTTP."""
    model, loads = setup.small_model(), [setup.load(streams) for streams in setup.streams]
    wanted = {"OpenVINO GenAI": 1.3, "vLLM CPU": 1.4, "llama-server": 3.0}
    own = [model.shoal(f"Shoal {split}", _served(split, loads)) for split in _SPLITS]
    yield Comparison(
        title=f"serve: {model.name}, prompts of 128 tokens and 64 output tokens over HTTP (OpenVINO GenAI: in process)",
        unit=f"output {_UNIT}",
        contenders=[*own, *_servers(setup, model, loads)],
        goals=[
            Goal(
                reference=name,
                load=stream_label(streams),
                at_least=at_least if streams in _BUSY_STREAMS else None,
            )
            for name, at_least in wanted.items()
            for streams in setup.streams
        ],
        flops_per_token=model.flops_per_token(),
    )


def rpc(setup: Setup) -> Iterator[Comparison]:
    """A pipeline of two workers against llama.cpp's RPC to two."""
    model, loads = setup.small_model(), [setup.load(1), setup.load(16)]
    reference = "llama.cpp RPC"
    yield Comparison(
        title=f"rpc: {model.name} on two workers of one thread, over HTTP",
        unit=f"output {_UNIT}",
        contenders=[
            model.shoal("Shoal pp=2", _served("pp=2", loads)),
            *setup.llama_cpp(
                reference,
                model,
                lambda llama: run_streams(llama.serving(threads=1, slots=16, rpc_workers=_RPC_WORKERS), loads),
            ),
        ],
        goals=[
            Goal(reference=reference, load=stream_label(16), at_least=6.0),
            Goal(reference=reference, load=stream_label(1), at_least=2.0),
        ],
        flops_per_token=model.flops_per_token(),
    )


def tensor_parallel(setup: Setup) -> Iterator[Comparison]:
    """Two workers that share every layer against one, decode of one stream."""
    for model in setup.models():
        yield _shared_by_two(model, at_least=1.5 if model.is_small else 1.8)


def pipeline(setup: Setup) -> Iterator[Comparison]:
    """A pipeline against replicas and against one worker, at numbers of streams that are not round as well."""
    model = setup.small_model()
    loads = [setup.load(streams) for streams in _UNEVEN_STREAMS]

    def offline(shoal: Shoal, split: str, threads: int) -> Readings:
        return {stream_label(load.streams): shoal.throughput(load, split=split, threads=threads) for load in loads}

    yield Comparison(
        title=f"pp: {model.name}, two cores, without HTTP",
        unit=f"output {_UNIT}",
        contenders=[
            model.shoal(name, lambda shoal, split=split: offline(shoal, split, _SPLITS[split]))
            for name, split in (("one worker", "1"), ("dp=2", "dp=2"), ("pp=2", "pp=2"))
        ],
        goals=[
            Goal(contender="pp=2", reference="one worker", load=stream_label(16), at_least=1.1),
            *(
                Goal(contender="pp=2", reference="dp=2", load=stream_label(streams), at_least=0.92)
                for streams in _UNEVEN_STREAMS
            ),
        ],
        flops_per_token=model.flops_per_token(),
    )


def _shared_by_two(model: Model, *, at_least: float) -> Comparison:
    """Two workers that share every layer against one, decode of one stream."""
    return Comparison(
        title=f"tp: {model.name}, decode of one stream, workers of one thread",
        unit=_UNIT,
        contenders=[
            model.shoal(name, lambda shoal, split=split: {_DECODE: shoal.decode(64, split=split, threads=1)})
            for name, split in (("one worker", "1"), ("tp=2", "tp=2"))
        ],
        goals=[Goal(contender="tp=2", reference="one worker", load=_DECODE, at_least=at_least)],
        flops_per_token=model.flops_per_token(),
        is_lone_decode=True,
    )


def _lone_decode(setup: Setup, model: Model, row: str) -> Comparison:
    """One stream of a model beside llama.cpp, without its prompt."""
    return Comparison(
        title=f"{row}: {model.name}, decode of one stream, {NUM_THREADS} threads",
        unit=_UNIT,
        contenders=[
            model.shoal("Shoal", lambda shoal: {_DECODE: shoal.decode(_DECODE_TOKENS, split="1", threads=NUM_THREADS)}),
            *setup.llama_cpp(
                "llama.cpp",
                model,
                lambda llama: {
                    _DECODE: llama.bench(prompt_tokens=0, output_tokens=_DECODE_TOKENS, threads=NUM_THREADS)
                },
            ),
        ],
        goals=[Goal(reference="llama.cpp", load=_DECODE, at_least=1.1)],
        flops_per_token=model.flops_per_token(),
        is_lone_decode=True,
    )


def _served(split: str, loads: Sequence[StreamLoad]) -> Callable[[Shoal], Readings]:
    """How Shoal in one split measures streams over HTTP."""
    slots = max(load.streams for load in loads)
    return lambda shoal: run_streams(shoal.serving(split=split, threads=_SPLITS[split], slots=slots), loads)


def _servers(setup: Setup, model: Model, loads: Sequence[StreamLoad]) -> Iterator[Contender]:
    """The installed peers that serve streams."""
    slots = max(load.streams for load in loads)
    if python := setup.found.openvino:
        openvino = OpenVino(python, model.file)
        yield Contender(
            name="OpenVINO GenAI",
            engine="OpenVINO GenAI",
            model=model.file,
            measure=lambda: run_streams(openvino.serving(threads=NUM_THREADS, slots=slots), loads),
        )
    if python := setup.found.vllm:
        copy = hugging_face_copy(python, model.file, cache_folder())
        vllm = Vllm(python, copy)
        yield Contender(
            name="vLLM CPU",
            engine="vLLM CPU",
            model=copy,
            measure=lambda: run_streams(vllm.serving(slots=slots), loads),
        )
    yield from setup.llama_cpp(
        "llama-server", model, lambda llama: run_streams(llama.serving(threads=NUM_THREADS, slots=slots), loads)
    )
