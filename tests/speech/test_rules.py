"""Which tokens may follow in a transcript: against transformers' processors of logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.speech.rules import TranscriptGuide
from tests.speech.vocabularies import END, FIRST, NO_TIMES, VOCABULARY


def allowed(outputs: list[int], *, has_timestamps: bool = True) -> set[int]:
    guide = TranscriptGuide(VOCABULARY, has_timestamps=has_timestamps, max_first_timestamp=10)
    bits = np.unpackbits(np.frombuffer(guide.allowed(outputs), np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def test_a_transcript_begins_with_an_early_time() -> None:
    assert allowed([]) == set(range(FIRST, FIRST + 11))


def test_words_follow_a_beginning_and_times_never_fall() -> None:
    words = set(range(20)) - {3}
    assert allowed([FIRST + 5]) == words | {END}
    assert allowed([FIRST + 5, 1]) == words | {END} | set(range(FIRST + 6, FIRST + 51))
    assert allowed([FIRST + 5, 1, FIRST + 8]) == {END} | set(range(FIRST + 8, FIRST + 51))
    assert allowed([FIRST + 5, 1, FIRST + 8, FIRST + 8]) == words | {END}


def test_without_times_there_are_words_alone() -> None:
    assert allowed([], has_timestamps=False) == set(range(1, 20)) - {3}
    assert allowed([1], has_timestamps=False) == (set(range(20)) - {3}) | {END}


@given(st.data())
def test_the_rules_are_those_of_transformers(data: st.DataObject) -> None:
    """Outputs that the rules allow, step by step; whatever follows is what transformers would leave."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GenerationConfig(
        no_timestamps_token_id=NO_TIMES, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=10
    )
    processor = transformers.generation.logits_process.WhisperTimeStampLogitsProcessor(config, begin_index=1)
    outputs: list[int] = []
    for _ in range(data.draw(st.integers(0, 8))):
        choices = sorted(allowed(outputs) - {END})
        if not choices:
            break
        outputs.append(data.draw(st.sampled_from(choices)))
    # words are far likelier than all times, so that no time is preferred
    scores = torch.zeros(1, VOCABULARY.num_tokens)
    scores[:, :FIRST] = 50.0
    kept = processor(torch.tensor([[NO_TIMES, *outputs]]), scores)[0]
    theirs = set(torch.nonzero(torch.isfinite(kept)).flatten().tolist())
    never = {*VOCABULARY.suppressed, *(VOCABULARY.suppressed_first if not outputs else ())}
    assert allowed(outputs) == theirs - never
