"""Hidden states of texts' last tokens behind the final norm, whole and split, in both forms, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.core.sequences.request import Request, RequestId, TokenProduced
from shoal.model.formats.open_weights import open_weights
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import F32, GREEDY, continuations, make_engine, make_executor, random_tokens

TEXTS = [random_tokens(length, seed=length) for length in (1, 7, 40, 100)]


@pytest.fixture(scope="module", params=["qwen3", "olmo2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model: Path) -> F32:
    import torch
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.stack([encoder(torch.tensor([text])).last_hidden_state[0, -1].numpy() for text in TEXTS])


@pytest.mark.parametrize(
    "form",
    [{}, {"native": False}, {"cuts": (1, 3)}, {"shares": (1, 1)}, {"native": False, "shares": (1, 1)}],
    ids=["native", "onnx", "pp", "tp", "onnx-tp"],
)
def test_hidden_states(model: Path, expected: F32, form: dict[str, Any]) -> None:
    """Beside a request that draws, whose tokens are as ever."""
    source = open_weights(model)
    engine = make_engine(make_executor(source, **form))
    (alone,) = continuations(engine, [TEXTS[1]], max_tokens=4)
    drawn = Request(request_id=RequestId("drawn"), prompt_ids=tuple(TEXTS[1]), max_tokens=4, sampling=GREEDY)
    engine.add(drawn)
    for index, text in enumerate(TEXTS):
        request_id = RequestId(str(index))
        engine.add(Request(request_id=request_id, prompt_ids=tuple(text), max_tokens=1, want_hidden=True))
    hidden: dict[str, bytes] = {}
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.turn(1.0):
            if isinstance(output, TokenProduced):
                if output.request_id == "drawn":
                    tokens.append(output.token_id)
                else:
                    hidden[output.request_id] = output.hidden
    assert tokens == alone
    vectors = np.stack([np.frombuffer(hidden[str(index)], "<f4") for index in range(len(TEXTS))])
    np.testing.assert_allclose(vectors, expected, atol=2e-5)
