"""Weights that are no numbers: requests that meet them are told so, and others do not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.core.sequences.beams import BeamSearch
from shoal.core.sequences.request import Request, RequestId
from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Sampling
from tests.model.tiny_models import tiny_llama_tensors, write_gguf
from tests.numerics.engines import GREEDY, make_engine, make_executor, random_tokens
from tests.numerics.native.hostile_company import HashedGuide, MortalExecutor, run_together

BROKEN_TOKEN = 7
GOOD = [token if token != BROKEN_TOKEN else 8 for token in random_tokens(60)]
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": GREEDY},
    "logits": {"sampling": GREEDY, "want_logits": True},
    "log-probabilities": {"sampling": Sampling(temperature=0.0, num_logprobs=3)},
    "many log-probabilities": {"sampling": Sampling(temperature=0.0, num_logprobs=100)},
    "drawn": {"sampling": Sampling(temperature=0.8)},
    "top-p": {"sampling": Sampling(temperature=0.8, top_p=0.7)},
    "top-k": {"sampling": Sampling(temperature=0.8, top_k=9)},
    "min-p": {"sampling": Sampling(temperature=0.8, min_p=0.1)},
    "echo": {"sampling": Sampling(temperature=0.0, num_logprobs=0), "targets": (5, 6, 9)},
    "vector": {"want_hidden": True, "max_tokens": 1},
    "beams": {
        "sampling": Sampling(temperature=0.0, num_logprobs=3),
        "beams": BeamSearch(num_beams=2),
        "stop_token_ids": frozenset({2}),
    },
}


@pytest.fixture(scope="module", params=["nan", "inf"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    """A model whose embedding of one token is no number."""
    tensors = tiny_llama_tensors()
    tensors["output.weight"] = tensors["token_embd.weight"].copy()
    tensors["token_embd.weight"][BROKEN_TOKEN] = float(request.param)
    path = tmp_path_factory.mktemp("broken") / "model.gguf"
    return open_weights(write_gguf(Path(path), "llama", tensors))


def request_for(name: str, prompt: list[int], **options: Any) -> Request:
    return Request(request_id=RequestId(name), prompt_ids=tuple(prompt), **{"max_tokens": 6, **options})


@pytest.mark.parametrize(
    ("native", "shares"),
    [
        pytest.param(True, (1,), marks=pytest.mark.skipif(not native_available(), reason="not built")),
        (False, (1,)),
        (None, (1, 1)),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_who_meets_them_is_told_and_others_go_on(
    native: bool | None, shares: tuple[int, ...], source: WeightSource
) -> None:
    executor = MortalExecutor(make_executor(source, native=native, shares=shares))
    rng = np.random.default_rng(0)
    good = [request_for(f"good {kind}", GOOD, **options) for kind, options in KINDS.items()]
    want = run_together(make_engine(executor), good, rng)
    engine = make_engine(executor, num_blocks=40)
    broken = [request_for(kind, [*GOOD[:20], BROKEN_TOKEN], **options) for kind, options in KINDS.items()]
    broken.append(request_for("guided", [BROKEN_TOKEN], guide=HashedGuide(1), sampling=GREEDY))
    got = run_together(engine, [*broken, *good], rng)
    for request in broken:
        end = got[request.request_id].end
        assert end is not None
        assert end.reason == "error", request.request_id
        assert request.guide is not None or not got[request.request_id].tokens, "forced tokens need no numbers"
        assert "no numbers" in end.message
    for request in good:
        assert got[request.request_id].said() == want[request.request_id].said()
    assert engine.stats().num_losses == 0
