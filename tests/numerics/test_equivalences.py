"""However a text is computed, its logits are the same: stages, chunks, cached prefixes, company, kernels.

All in fp32. TOLERANCE: every way does the same multiplications, but ONNX Runtime picks its matrix kernel by the number
of rows and each adds in an order of its own, so sums of 64 to 128 terms differ in their last bits; logits are up to 6.
"""

import numpy as np
import pytest

from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Sampling
from shoal.router.engine import Engine
from shoal.verify.language import greedy_with_logits
from tests.numerics.conftest import MakeSource
from tests.numerics.engines import continuations, make_engine, make_executor, random_tokens, text_logits

TOLERANCE = 5e-5
TEXT = random_tokens(90)
FAMILIES = ("llama", "gemma3_text", "gpt_oss")
"""one without and one with windows, soft norms and two rotary tables; and one with experts and sinks"""


def whole_logits(source: WeightSource) -> np.ndarray:
    (logits,) = text_logits(make_engine(make_executor(source)), [TEXT])
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cuts", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_stages_compose_to_the_whole(family: str, cuts: tuple[int, ...], tiny_source: MakeSource) -> None:
    source = tiny_source(family)
    (logits,) = text_logits(make_engine(make_executor(source, cuts=cuts)), [TEXT])
    np.testing.assert_allclose(logits, whole_logits(source), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 33])
def test_chunked_prefill_equals_whole_prefill(family: str, chunk_tokens: int, tiny_source: MakeSource) -> None:
    source = tiny_source(family)
    executor = make_executor(source)
    (logits,) = text_logits(make_engine(executor, prefill_chunk_tokens=chunk_tokens), [TEXT])
    assert max(executor.step_sizes) == chunk_tokens
    np.testing.assert_allclose(logits, whole_logits(source), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss"])
def test_a_cached_prefix_equals_a_computed_one(family: str, tiny_source: MakeSource) -> None:
    source = tiny_source(family)
    executor = make_executor(source)
    engine = make_engine(executor)
    cold = continuations(engine, [TEXT], max_tokens=16)
    rows_before = sum(executor.step_sizes)
    warm = continuations(engine, [TEXT], max_tokens=16)
    assert engine.stats().prefix_hit_tokens >= 80
    assert sum(executor.step_sizes) - rows_before <= 16 + len(TEXT) - 80
    assert warm == cold


def continuation_logits(engine: Engine, prompt: list[int], *, num_tokens: int) -> np.ndarray:
    """Logits of the positions after a whole prompt: unlike `text_logits` this can use a cached prefix."""
    (result,) = greedy_with_logits(engine, [prompt], output_tokens=num_tokens, concurrency=1)
    return np.stack([np.frombuffer(row, "<f4") for row in result.logits])


def test_logits_after_a_cached_prefix(tiny_source: MakeSource) -> None:
    """A text that shares 64 of its 90 tokens with one seen before."""
    source = tiny_source("llama")
    engine = make_engine(make_executor(source))
    other = TEXT[:64] + random_tokens(26, seed=5)
    continuations(engine, [other], max_tokens=1)
    cached = continuation_logits(engine, TEXT, num_tokens=8)
    assert engine.stats().prefix_hit_tokens == 64
    computed = continuation_logits(make_engine(make_executor(source)), TEXT, num_tokens=8)
    np.testing.assert_allclose(cached, computed, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_company_changes_nothing(cuts: tuple[int, ...], tiny_source: MakeSource) -> None:
    source = tiny_source("mistral")
    texts = [random_tokens(length, seed=length) for length in (70, 1, 33, 16, 50)]
    together = text_logits(make_engine(make_executor(source, cuts=cuts), prefill_chunk_tokens=32), texts)
    engine = make_engine(make_executor(source))
    for text, logits in zip(texts, together, strict=True):
        (alone,) = text_logits(engine, [text])
        np.testing.assert_allclose(logits, alone, rtol=0, atol=TOLERANCE)


def test_company_changes_no_draw(tiny_source: MakeSource) -> None:
    """Seeded sampling depends on the request, not on the batch it runs in."""
    source = tiny_source("qwen3")
    prompts = [random_tokens(length, seed=length) for length in (20, 30, 40)]
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=3)
    options = {"max_tokens": 24, "sampling": sampling}
    together = continuations(make_engine(make_executor(source, cuts=(1, 2))), prompts, **options)
    alone = continuations(make_engine(make_executor(source)), prompts, concurrency=1, **options)
    assert together == alone
    assert len({token for tokens in alone for token in tokens}) > 20


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "phi3", "gpt_oss"])
def test_native_attention_equals_numpy_attention(family: str, tiny_source: MakeSource) -> None:
    pytest.importorskip("shoal._native", reason="the native extension is not built")
    source = tiny_source(family)
    native, numpy = (
        text_logits(make_engine(make_executor(source, native=native), prefill_chunk_tokens=40), [TEXT])[0]
        for native in (True, False)
    )
    np.testing.assert_allclose(native, numpy, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "glm4_moe"])
def test_preempted_requests_go_on_with_the_same_tokens(family: str, tiny_source: MakeSource) -> None:
    """Blocks for two of three requests: one is recomputed, and answers as if it had been alone."""
    source = tiny_source(family)
    prompts = [random_tokens(40, seed=seed) for seed in range(3)]
    crowded = make_engine(make_executor(source), num_blocks=12)
    answers = continuations(crowded, prompts, max_tokens=40)
    assert crowded.stats().num_preemptions > 0
    assert answers == continuations(make_engine(make_executor(source)), prompts, max_tokens=40)
