"""Three hundred texts that tokenizers get wrong: the same for every vocabulary and in every run."""

from __future__ import annotations

import json
from itertools import chain, cycle, islice
from pathlib import Path

NUM_TEXTS = 300
_LONGEST_PAIRED = 40
"""characters of a text that is put beside another"""
_RUNS = (
    *((" ", 17), (" ", 300), ("\n", 40), ("\t", 33), (" \n", 25), ("\r\n", 21), ("a", 100), ("a", 700), ("ab", 250)),
    *(("1", 64), ("1", 301), ("=", 80), ("-", 513), ("!", 99), ("\U0001f41f", 60), ("\u6f22", 130), ("e\u0301", 70)),
    *(("\u0301", 50), (" a", 200), ("a ", 200), ("A", 90), ("aA", 90), ("x1", 90), ("\xa0", 45), ("\ud55c", 77)),
    *(("\u0627", 88), ("<s", 40)),
)
"""a text and how often it comes in a row"""


def hard_texts() -> tuple[str, ...]:
    """Texts of each group of hard_texts.json, long runs, and then texts of two groups side by side."""
    groups = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    single = [text for group in groups.values() for text in group] + [text * count for text, count in _RUNS]
    short = (text for text in cycle(single[1:]) if len(text) < _LONGEST_PAIRED)
    between = (cycle(groups[name]) for name in ("spaces", "marks", "scripts", "digits"))
    paired = (
        text + seam + text for text, seam in zip(short, chain.from_iterable(zip(*between, strict=True)), strict=False)
    )
    return tuple(dict.fromkeys([*single, *islice(paired, NUM_TEXTS)]))[:NUM_TEXTS]
