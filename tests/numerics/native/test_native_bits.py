"""However a native stage computes a text, its logits have the same bits: on every instruction set, in any company and
chunks, with any number of threads, cut into stages, in replicas, and computed again after a preemption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.bench.generation import generate
from shoal.core.sequences.request import Request, RequestId
from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import Precision, WeightSource
from shoal.router.engine import Engine
from shoal.verify.language import greedy_with_logits
from tests.numerics.engines import F32, GREEDY, make_engine, make_executor, prompt_logits, random_tokens, text_logits
from tests.numerics.native.native_models import NAMES, write_native_model
from tests.sampling import in_turn

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")

if native_available():
    from shoal import _native

    ISAS = _native.supported_isas()
else:
    ISAS = []

PRECISIONS: tuple[Precision, ...] = ("auto", "int8", "int4", "fp32")
PROMPTS = [random_tokens(length, seed=length) for length in (1, 2, 17, 33, 64, 90)]
TEXT = random_tokens(40)
MakeModel = Callable[[str], WeightSource]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    written: dict[str, Path] = {}

    def make(name: str) -> WeightSource:
        if name not in written:
            written[name] = write_native_model(name, tmp_path_factory.mktemp(name))
        return open_weights(written[name])

    return make


def all_logits(engine: Engine) -> list[F32]:
    """After every prompt, and after every token of a text: some rows in one step, and one after the other."""
    return [prompt_logits(engine, PROMPTS), *text_logits(engine, [TEXT])]


def whole(source: WeightSource, precision: Precision, **options: Any) -> list[F32]:
    return all_logits(make_engine(make_executor(source, precision=precision, native=True, **options)))


def assert_same_bits(got: list[F32], want: list[F32], context: object = "") -> None:
    for one, other in zip(got, want, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32), err_msg=str(context))


@pytest.mark.sample(every=len(PRECISIONS))
@pytest.mark.parametrize(("name", "precision"), in_turn(NAMES, PRECISIONS))
def test_every_instruction_set(name: str, precision: Precision, model: MakeModel) -> None:
    source = model(name)
    for exact in (False, True):
        want = whole(source, precision, exact_activations=exact)
        for isa in ISAS[1:]:
            assert_same_bits(whole(source, precision, isa=isa, exact_activations=exact), want, (isa, exact))


@pytest.mark.sample(every=len(PRECISIONS))
@pytest.mark.parametrize(("name", "precision"), in_turn(NAMES, PRECISIONS))
def test_company_chunks_threads_and_stages(name: str, precision: Precision, model: MakeModel) -> None:
    source = model(name)
    executor = make_executor(source, precision=precision, native=True)
    want = all_logits(make_engine(executor))
    alone = np.concatenate([prompt_logits(make_engine(executor), [prompt]) for prompt in PROMPTS])
    assert_same_bits([alone], want[:1], "alone")
    for chunk_tokens in (1, 7, 33):
        assert_same_bits(all_logits(make_engine(executor, prefill_chunk_tokens=chunk_tokens)), want, chunk_tokens)
    for threads in (2, 3):
        assert_same_bits(whole(source, precision, threads=threads), want, f"{threads} threads")
    for cuts in ((1,), (1, 2, 3)):
        if cuts[-1] < source.config.num_layers:
            assert_same_bits(whole(source, precision, cuts=cuts, threads=2), want, cuts)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        *(
            (name, (1,))
            for name in ("llama", "qwen3", "gemma3", "olmo2", "exaone4", "cohere", "gguf", "lfm2", "mixtral")
        ),
        *((name, (2, 1, 1)) for name in ("llama-odd", "qwen3", "gemma3", "gguf")),
    ],
)
def test_rows_that_nobody_reads(name: str, shares: tuple[int, ...], model: MakeModel) -> None:
    """The last layer computes only those rows of a prompt that are sampled: the rest of the text has the same logits as
    after a prompt of which all are."""
    executor = make_executor(model(name), precision="auto", native=True, shares=shares)
    prompt, rest = PROMPTS[-1], random_tokens(12, seed=9)
    (whole_text,) = text_logits(make_engine(executor), [[*prompt, *rest]])
    got = forced_logits(make_engine(executor), [prompt, PROMPTS[3]], [rest, rest])
    assert_same_bits([got], [whole_text[len(prompt) - 1 : -1]])


@pytest.mark.parametrize("name", ["llama-odd", "gemma3", "gguf", "lfm2", "qwen3.5", "nemotron-h"])
def test_shards_on_every_instruction_set(name: str, model: MakeModel) -> None:
    """Three shards of two or four KV heads: with two, one shard has no attention."""
    source = model(name)
    want = whole(source, "auto", shares=(2, 1, 1))
    for isa in ISAS[1:]:
        assert_same_bits(whole(source, "auto", shares=(2, 1, 1), isa=isa, threads=2), want, isa)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_replicas_of_several_kinds(precision: Precision, model: MakeModel) -> None:
    """Whichever replica a request comes to: one has the best instruction set, one the baseline and two stages."""
    source = model("gemma3")
    want = whole(source, precision)
    first = make_executor(source, precision=precision, native=True, threads=2)
    second = make_executor(source, precision=precision, native=True, isa="baseline", cuts=(2,))
    assert_same_bits(all_logits(make_engine(first, second)), want)
    assert min(len(first.step_sizes), len(second.step_sizes)) > 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gguf", "lfm2", "qwen3.5", "nemotron-h"])
def test_preempted_requests_are_computed_again(name: str, precision: Precision, model: MakeModel) -> None:
    """Blocks for two of three requests: what was computed row by row comes again as part of a prompt."""
    executor = make_executor(model(name), precision=precision, native=True)
    prompts = [random_tokens(40, seed=seed) for seed in range(3)]
    crowded = make_engine(executor, num_blocks=12)
    got = greedy_logits(crowded, prompts)
    assert crowded.stats().num_preemptions > 0
    assert_same_bits(got, greedy_logits(make_engine(executor), prompts))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gemma3", "lfm2", "qwen3.5", "nemotron-h"])
def test_a_cached_prefix(name: str, precision: Precision, model: MakeModel) -> None:
    """Of a prompt that was computed in other chunks and in company."""
    executor = make_executor(model(name), precision=precision, native=True)
    prompts = [PROMPTS[-1], [*PROMPTS[-1][:70], *random_tokens(5)], random_tokens(20)]
    engine = make_engine(executor, prefill_chunk_tokens=7)
    greedy_logits(engine, prompts)
    hits = engine.stats().prefix_hit_tokens
    got = greedy_logits(engine, [prompts[1]])
    assert engine.stats().prefix_hit_tokens - hits == 64
    assert_same_bits(got, greedy_logits(make_engine(executor), [prompts[1]]))


def forced_logits(engine: Engine, prompts: list[list[int]], outputs: list[list[int]]) -> F32:
    """Of the first prompt, which is computed with the others: before each of the outputs that it is given."""
    requests = [
        Request(
            request_id=RequestId(str(index)),
            prompt_ids=tuple(prompt),
            targets=tuple(output),
            max_tokens=len(output),
            sampling=GREEDY,
            want_logits=True,
        )
        for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
    ]
    first = generate(engine, requests, concurrency=len(requests))[0]
    return np.stack([np.frombuffer(row, "<f4") for row in first.logits])


def greedy_logits(engine: Engine, prompts: list[list[int]]) -> list[F32]:
    results = greedy_with_logits(engine, prompts, output_tokens=40, concurrency=len(prompts))
    return [np.stack([np.frombuffer(row, "<f4") for row in result.logits]) for result in results]
