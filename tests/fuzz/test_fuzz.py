"""Fuzzing with the same inputs every time; `make fuzz` goes on with others."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from tests.fuzz.corpus import SEEDS, read_corpus
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, find_flaw

NUM_PARTS, INPUTS_PER_PART = 10, 50_000
"""Of each target; all parts of all targets together took 50 s of processor time."""


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_holds_what_is_sent_now(target: str) -> None:
    assert set(SEEDS[target]()) <= set(read_corpus(target)), "run: python -m tests.fuzz.corpus"


@pytest.mark.sample(every=NUM_PARTS)
@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("target", TARGETS)
def test_only_refusals_come_out(target: str, part: int) -> None:
    read, corpus, source = TARGETS[target], read_corpus(target), random.Random(f"{target} {part}")
    mutants = (mutate(corpus, source) for _ in range(INPUTS_PER_PART))
    for data in chain(corpus, mutants):
        if error := find_flaw(read, data):
            pytest.fail(f"{type(error).__name__}: {error} from {data.hex()}")
