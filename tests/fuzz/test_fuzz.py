"""Some seconds of fuzzing, the same inputs every time; `make fuzz` goes on with others."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from tests.fuzz.corpus import SEEDS, read_corpus
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import REFUSALS, TARGETS

NUM_INPUTS = 20_000


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_holds_what_is_sent_now(target: str) -> None:
    assert set(SEEDS[target]()) <= set(read_corpus(target)), "run: python -m tests.fuzz.corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_only_refusals_come_out(target: str) -> None:
    read, corpus, source = TARGETS[target], read_corpus(target), random.Random(target)
    for data in corpus:
        with suppress(*REFUSALS):
            read(data)
    for _ in range(NUM_INPUTS):
        data = mutate(corpus, source)
        try:
            read(data)
        except REFUSALS:
            continue
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} from {data.hex()}")
