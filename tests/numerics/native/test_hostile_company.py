"""A request says the same to the bit, whether it is alone on one worker or in hostile company: with other instruction
sets, chunks and stages, few blocks, requests that come and are cancelled meanwhile, and workers that die."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.core.sequences.request import NO_ADAPTER, Request
from shoal.model.adapter.files import find_adapter
from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import Precision, WeightSource
from tests.model.tiny_adapters import tiny_adapter
from tests.model.tiny_models import VOCAB_SIZE, make_tiny_model
from tests.model.tiny_vision import make_tiny_vision
from tests.model.tiny_whisper import make_tiny_whisper
from tests.numerics.engines import PipelineExecutor, make_engine, make_executor
from tests.numerics.native.hostile_company import (
    MAX_PROMPT,
    MAX_TOKENS,
    MortalExecutor,
    again,
    draw_requests,
    run_together,
)
from tests.numerics.native.native_models import NAMES, write_native_model
from tests.numerics.test_whisper import NUM_MEMORIES, clip_of, features_of
from tests.numerics.vision.picture_models import SeenPrompt

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")

NUM_REQUESTS = 8
SHARE_CANCELLED = 0.25
PRECISIONS: tuple[Precision, ...] = ("auto", "int8", "int4", "fp32")
SPEECH_CONTEXT = 128
MakeModel = Callable[[str], WeightSource]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    written: dict[str, Path] = {}

    def make(name: str) -> WeightSource:
        if name not in written:
            written[name] = write_native_model(name, tmp_path_factory.mktemp(name))
        return open_weights(written[name])

    return make


def check(
    source: WeightSource,
    rng: np.random.Generator,
    *,
    options: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    variants: Sequence[Mapping[str, Any]] = ({},),
    more: Sequence[Request] = (),
) -> dict[str, int]:
    """Draws a case and checks it.

    Args:
        source: of the model.
        rng: draws.
        options: of `make_executor`.
        limits: of `make_engine`.
        variants: see `draw_requests`.
        more: requests that are there as well.

    Returns: numbers of preemptions, losses and tokens that were found in blocks.
    """
    from shoal import _native

    has_shards = source.config.encoder is None and not (options or {}).get("adapters")
    options = {
        "precision": PRECISIONS[rng.integers(len(PRECISIONS))],
        "exact_activations": bool(rng.random() < 0.25),
        "native": True,
        "shares": (1, 1) if has_shards and rng.random() < 0.3 else (1,),
        **(options or {}),
    }
    limits = dict(limits or {})
    max_prompt = min(MAX_PROMPT, limits.get("max_context", 256) - 2 * MAX_TOKENS)
    has_beams = not source.config.recurrence
    drawn = draw_requests(rng, NUM_REQUESTS, has_beams=has_beams, max_prompt=max_prompt, variants=variants)
    requests = [*drawn, *more]
    alone, num_layers = make_executor(source, **options), source.config.num_layers

    def some_executor() -> PipelineExecutor:
        cuts = sorted({int(cut) for cut in rng.integers(1, num_layers, rng.integers(0, 3))})
        isa, threads = str(rng.choice(_native.supported_isas())), int(rng.integers(1, 4))
        return make_executor(source, cuts=cuts, isa=isa, threads=threads, **options)

    dies_after = int(rng.integers(1, 40)) if rng.random() < 0.7 else None
    together = [MortalExecutor(some_executor(), num_steps=dies_after), MortalExecutor(some_executor())]
    engine = make_engine(
        *together[: rng.integers(1, 3) if dies_after is None else 2],
        num_blocks=int(rng.integers(14, 26)),
        max_seqs=int(rng.integers(3, 9)),
        prefill_chunk_tokens=int(rng.choice([1, 5, 16, 33, 100, 128])),
        **limits,
    )
    answers = run_together(engine, requests, rng, share_cancelled=SHARE_CANCELLED)
    for request in requests:
        got = answers[request.request_id]
        assert got.end is not None
        if got.end.reason == "cancelled":
            continue
        lonely = make_engine(MortalExecutor(alone), **limits)
        (want,) = run_together(lonely, [again(request)], rng).values()
        assert got.said() == want.said(), (request.request_id, options)
    stats = engine.stats()
    return {"preemptions": stats.num_preemptions, "losses": stats.num_losses, "hits": stats.prefix_hit_tokens}


@pytest.mark.sample(every=11)
@pytest.mark.parametrize("seed", range(4 * len(NAMES)))
def test_alone_and_in_hostile_company(seed: int, model: MakeModel) -> None:
    check(model(NAMES[seed % len(NAMES)]), np.random.default_rng(seed))


@pytest.mark.sample(every=8)
@pytest.mark.parametrize("seed", range(8))
def test_speech(seed: int, tmp_path: Path) -> None:
    """Clips that requests share and that are encoded again; keys and values of 8 bits in half of the cases."""
    source, rng = open_weights(make_tiny_whisper(tmp_path)), np.random.default_rng(seed)
    check(
        source,
        rng,
        options={"num_memories": NUM_MEMORIES, "precision": ("int8", "fp32")[seed % 2]},
        limits={"num_memories": NUM_MEMORIES, "max_context": SPEECH_CONTEXT},
        variants=[{"clip": clip_of(features_of(clip))} for clip in range(NUM_MEMORIES + 2)],
    )


@pytest.mark.sample(every=8)
@pytest.mark.parametrize("seed", range(8))
def test_adapters(seed: int, tmp_path: Path) -> None:
    path = make_tiny_model("qwen3", tmp_path / "model")
    adapters = [
        find_adapter(f"adapter-{rank}", tiny_adapter(path, tmp_path / f"{rank}", rank=rank, seed=rank))
        for rank in (3, 40)
    ]
    variants = [{"adapter": number} for number in (NO_ADAPTER, 0, 1)]
    check(open_weights(path), np.random.default_rng(seed), options={"adapters": adapters}, variants=variants)


@pytest.mark.sample(every=8)
@pytest.mark.parametrize("seed", range(8))
def test_pictures(seed: int, tmp_path: Path) -> None:
    family = ("qwen2_5_vl", "gemma3", "qwen3_vl", "qwen3_vl_moe")[seed % 4]
    seen = SeenPrompt(make_tiny_vision(family, tmp_path), VOCAB_SIZE + 1, family)
    more = [seen.request(f"seen-{index}", (index, index % 2), max_tokens=9, want_logits=True) for index in range(3)]
    check(open_weights(seen.model), np.random.default_rng(seed), more=more)
