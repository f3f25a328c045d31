"""Whisper's encoder and decoder against transformers: whole, in stages, several clips at once, in both files' forms.

Shapes: F frames, M mels, P positions, D hidden size, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import _native
from shoal.bench.generation import generate
from shoal.core.sequences.beams import BeamSearch
from shoal.core.sequences.request import Clip, ClipAttention, Request, RequestId
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import Precision
from shoal.protocol.language_messages import Sampling
from tests.model.tiny_whisper import (
    NUM_MELS,
    NUM_POSITIONS,
    START,
    make_tiny_whisper,
    write_ctranslate2,
)
from tests.numerics.engines import F32, GREEDY, make_engine, make_executor, random_tokens

NUM_MEMORIES = 4
TOLERANCE = 1e-4
"""of the largest logit: fp32 sums in another order"""
TEXT = (START, *random_tokens(40))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def reference(directory: Path) -> Any:
    import torch
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def features_of(seed: int) -> F32:
    """[F, M]"""
    return np.random.default_rng(seed).standard_normal((2 * NUM_POSITIONS, NUM_MELS)).astype(np.float32)


def clip_of(features_FM: F32) -> Clip:
    features = features_FM.tobytes()
    return Clip(key=sha256(features).digest(), num_rows=NUM_POSITIONS, features=features)


def reference_logits(model: Any, features_FM: F32, tokens: Sequence[int]) -> F32:
    import torch

    with torch.no_grad():
        logits = model(input_features=torch.tensor(features_FM.T[None]), decoder_input_ids=torch.tensor([list(tokens)]))
    return logits.logits[0].numpy()


def logits_of(
    path: Path,
    clips: Sequence[Clip],
    *,
    cuts: Sequence[int] = (),
    precision: Precision = "fp32",
    isa: str = "",
    **limits: int,
) -> list[F32]:
    """Logits [T, V] of the text over each clip, all at once."""
    executor = make_executor(open_weights(path), cuts=cuts, precision=precision, isa=isa, num_memories=NUM_MEMORIES)
    engine = make_engine(executor, num_memories=NUM_MEMORIES, max_context=128, **limits)
    requests = [
        Request(
            request_id=RequestId(f"clip-{index}"),
            prompt_ids=TEXT[:1],
            targets=(*TEXT[1:], 0),
            max_tokens=len(TEXT),
            sampling=GREEDY,
            want_logits=True,
            clip=clip,
        )
        for index, clip in enumerate(clips)
    ]
    results = generate(engine, requests, concurrency=len(requests))
    return [np.stack([np.frombuffer(row, "<f4") for row in result.logits]) for result in results]


def test_the_encoder_gives_what_transformers_gives(directory: Path, reference: Any) -> None:
    import torch

    (stage,) = make_executor(open_weights(directory), num_memories=1).stages
    with torch.no_grad():
        expected = reference.model.encoder(torch.tensor(features_of(0).T[None])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(stage._encoder.encode(features_of(0)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cuts", [(), (1,), (1, 3)])
def test_logits_are_those_of_transformers_in_any_number_of_stages(
    directory: Path, reference: Any, cuts: tuple[int, ...]
) -> None:
    features = [features_of(seed) for seed in range(3)]
    for one, logits in zip(features, logits_of(directory, list(map(clip_of, features)), cuts=cuts), strict=True):
        expected = reference_logits(reference, one, TEXT)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE * float(np.abs(expected).max()))


def test_more_clips_than_slots_wait_for_a_slot(directory: Path) -> None:
    clips = [clip_of(features_of(seed)) for seed in range(2 * NUM_MEMORIES)]
    together = logits_of(directory, clips)
    for clip, logits in zip(clips, together, strict=True):
        np.testing.assert_array_equal(logits, logits_of(directory, [clip])[0])


def test_a_short_step_computes_the_same_bits(directory: Path) -> None:
    """A text in chunks of 8 rows, as one that is replayed is, and in one of 128."""
    clip = clip_of(features_of(0))
    whole = logits_of(directory, [clip])[0]
    np.testing.assert_array_equal(logits_of(directory, [clip], prefill_chunk_tokens=8)[0], whole)


def test_int8_is_close(directory: Path, reference: Any) -> None:
    features = features_of(0)
    expected = reference_logits(reference, features, TEXT)
    (logits,) = logits_of(directory, [clip_of(features)], precision="int8")
    correlation = np.corrcoef(logits.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.999


def test_int8_has_the_same_bits_on_every_instruction_set_and_in_company(directory: Path) -> None:
    """Keys and values of encoder and clips are in codes there."""
    clips = [clip_of(features_of(seed)) for seed in range(3)]
    want = logits_of(directory, clips, precision="int8")
    np.testing.assert_array_equal(logits_of(directory, clips[:1], precision="int8")[0], want[0])
    for isa in _native.supported_isas()[1:]:
        np.testing.assert_array_equal(logits_of(directory, clips, precision="int8", isa=isa), want)


def test_the_form_of_ctranslate2_is_the_same_model(directory: Path, tmp_path: Path) -> None:
    converted = write_ctranslate2(directory, tmp_path / "ct2")
    clip = clip_of(features_of(0))
    np.testing.assert_array_equal(logits_of(converted, [clip])[0], logits_of(directory, [clip])[0])


def test_a_prefix_is_never_taken_over_from_another_clip(directory: Path) -> None:
    """The same text over two clips, one after the other through one engine."""
    executor = make_executor(open_weights(directory), num_memories=NUM_MEMORIES)
    engine = make_engine(executor, num_memories=NUM_MEMORIES, max_context=128)
    logits = []
    for seed in (0, 1, 0):
        request = Request(
            request_id=RequestId(f"clip-{len(logits)}"),
            prompt_ids=TEXT,
            max_tokens=1,
            sampling=GREEDY,
            want_logits=True,
            clip=clip_of(features_of(seed)),
        )
        (result,) = generate(engine, [request], concurrency=1)
        logits.append(np.frombuffer(result.logits[0], "<f4"))
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    np.testing.assert_array_equal(logits[2], logits[0])


@pytest.mark.parametrize("cuts", [(), (1, 3)])
def test_a_beam_search_finds_what_transformers_finds(directory: Path, reference: Any, cuts: tuple[int, ...]) -> None:
    """Several at once, through stages: hypotheses of one clip share its slot and blocks."""
    import torch
    from transformers import GenerationConfig, GenerationMixin

    features = [features_of(seed) for seed in range(3)]
    how = BeamSearch(num_beams=4)
    requests = [
        Request(
            request_id=RequestId(f"clip-{index}"),
            prompt_ids=TEXT[:5],
            max_tokens=20,
            sampling=Sampling(temperature=0.0, num_logprobs=how.num_candidates),
            clip=clip_of(one),
            beams=how,
        )
        for index, one in enumerate(features)
    ]
    executor = make_executor(open_weights(directory), cuts=cuts, num_memories=NUM_MEMORIES)
    engine = make_engine(executor, num_memories=NUM_MEMORIES, max_context=128, max_seqs=12)
    results = generate(engine, requests, concurrency=len(requests))
    settings = GenerationConfig(num_beams=4, max_new_tokens=20, length_penalty=1.0, pad_token_id=0, do_sample=False)
    for one, result in zip(features, results, strict=True):
        expected = GenerationMixin.generate(
            reference,
            torch.tensor(one.T[None]),
            decoder_input_ids=torch.tensor([TEXT[:5]]),
            generation_config=settings,
            output_scores=True,
            return_dict_in_generate=True,
        )
        assert list(result.token_ids) == expected.sequences[0, 5:].tolist()


@pytest.mark.parametrize(
    ("cuts", "precision", "atol"), [((), "fp32", 1e-3), ((1, 3), "fp32", 1e-3), ((), "int8", 0.02)]
)
def test_attention_over_the_clip_is_that_of_transformers(
    directory: Path, reference: Any, cuts: tuple[int, ...], precision: Precision, atol: float
) -> None:
    """Of all heads, in pieces of 16 rows, over the first positions alone; from keys in codes, too."""
    import torch

    features, heads, num_positions = features_of(0), tuple((layer, head) for layer in range(4) for head in range(4)), 30
    executor = make_executor(open_weights(directory), cuts=cuts, precision=precision, num_memories=NUM_MEMORIES)
    engine = make_engine(executor, num_memories=NUM_MEMORIES, max_context=128, prefill_chunk_tokens=16)
    request = Request(
        request_id=RequestId("aligned"),
        prompt_ids=TEXT[:3],
        targets=(*TEXT[3:], 0),
        max_tokens=len(TEXT),
        sampling=GREEDY,
        clip=clip_of(features),
        attention=ClipAttention(heads=heads, num_positions=num_positions),
    )
    for _ in range(2):  # the second time its blocks are in the index
        (result,) = generate(engine, [request], concurrency=1)
        parts = [np.frombuffer(one, "<f2").reshape(len(heads), -1, num_positions) for one in result.attention]
        with torch.no_grad():
            output = reference(
                input_features=torch.tensor(features.T[None]),
                decoder_input_ids=torch.tensor([list(TEXT)]),
                output_attentions=True,
            )
        whole = torch.cat([one[0] for one in output.cross_attentions])[..., :num_positions]
        expected = (whole / whole.sum(-1, keepdim=True)).numpy()
        np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=0, atol=atol)
        request = replace(request, request_id=RequestId("again"))
