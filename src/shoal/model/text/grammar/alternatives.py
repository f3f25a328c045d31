"""Places of a Lark grammar at which a parser has very many alternatives at once, of which llguidance allows 2000.

Which rules those are is guessed from the text; whether they are too many is the library's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MOST_ALTERNATIVES = 2000
"""Of rules at one place: llguidance's own limit, `max_items_in_row`. It cannot be raised far: what an ambiguous grammar
takes for a token grows with its square (2.8 s at 16 thousand, 50 ms at 2000)."""
TOO_MANY = (
    f"has more than {MOST_ALTERNATIVES} alternatives at one place: give texts as a `choice`, or write them as one "
    "expression or terminal (in Lark a name in capitals)"
)
"""The end of a message about a constraint or a rule."""
_MANY = 500
"""Alternatives from which on a rule is worth asking about: each is several items where parts of it are optional."""
_MOST_ASKED = 3
"""Rules of one grammar: each is compiled once more."""
_MOST_STEPS = 200_000
"""From rule to rule while they are counted: a tenth of a second."""
_RULE = re.compile(r"^[ \t]*[?!]?([a-z_]\w*|[A-Z]\w*)(?:\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)
_START = re.compile(r"^([ \t]*[?!]?)start(?=\[|[ \t]*:)", re.MULTILINE)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')
"""Texts and expressions in Lark."""
_SYMBOL = re.compile(r'[a-zA-Z_]\w*|["()|\[\]]')


def has_too_many_alternatives(error: str) -> bool:
    """Whether an error of llguidance is about the number of alternatives at one place."""
    return "items; max is" in error


def crowded_rules(grammar: str) -> Iterator[str]:
    """Rules with many alternatives at their beginning, those of the rules included that they begin with; the fullest
    first. `start` is none of them, nor is a rule that another one of them begins with."""
    counts, begins_with = _beginnings(grammar)
    reached: dict[str, set[str]] = {}
    num_steps = 0
    for rule in counts:
        reached[rule] = _reached(rule, begins_with, _MOST_STEPS - num_steps)
        num_steps += len(reached[rule])
    totals = {rule: sum(counts[one] for one in others) for rule, others in reached.items()}
    told: set[str] = set(reached.get("start", ()))
    for rule in sorted((one for one in totals if totals[one] > _MANY), key=lambda one: -totals[one])[:_MOST_ASKED]:
        if rule not in told:
            told |= reached[rule]
            yield rule


def behind_a_text(grammar: str, rule: str) -> str:
    """The grammar of a full stop and what a rule of another grammar stands for. At the very beginning llguidance makes
    one terminal of many texts, which it does nowhere else."""
    return _START.sub(r"\1start_of_all", grammar) + f'\nstart: "." {rule}\n'


def _reached(rule: str, begins_with: Mapping[str, set[str]], most: int) -> set[str]:
    """A rule and those that it may begin with, directly or not; no more than `most` of them."""
    reached, open_rules = {rule}, [rule]
    while open_rules and len(reached) < most:
        new = begins_with[open_rules.pop()] - reached
        reached |= new
        open_rules += new
    return reached


def _beginnings(grammar: str) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Alternatives of each rule, and the rules that these begin with. Terminals are one alternative each."""
    bare = _QUOTED.sub('"', grammar)
    heads = list(_RULE.finditer(bare))
    ends = [*(head.start() for head in heads[1:]), len(bare)]
    counts: dict[str, int] = {}
    begins_with: dict[str, set[str]] = {}
    for head, end in zip(heads, ends, strict=False):
        if head[1].islower():
            counts[head[1]], begins_with[head[1]] = _of_body(bare[head.end() : end])
    return counts, {rule: others & counts.keys() for rule, others in begins_with.items()}


def _of_body(body: str) -> tuple[int, set[str]]:
    """The alternatives at the beginning of a rule, also within groups there, and the names that these begin with."""
    count, names = 1, set[str]()
    groups = [True]
    """of the groups that are open, whether each is at the beginning"""
    is_first = True
    for symbol in _SYMBOL.findall(body):
        if symbol in "([":
            groups.append(is_first)
        elif symbol in ")]":
            is_first = False
            if len(groups) > 1:
                groups.pop()
        elif symbol == "|":
            is_first = groups[-1]
            count += is_first
        else:
            if is_first:
                names.add(symbol)
            is_first = False
    return count, names
