"""Rules of a Lark grammar with too many alternatives at one place: llguidance allows 2000.

The rules are guessed from the grammar's text; llguidance decides whether they have too many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MOST_ALTERNATIVES = 2000
"""Alternative rules at one place: llguidance's own limit, `max_items_in_row`. It cannot be raised much: the time that
an ambiguous grammar takes for a token grows with its square (50 ms at 2000, 2.8 s at 16 thousand)."""
TOO_MANY = (
    f"has more than {MOST_ALTERNATIVES} alternatives at one place: give texts as a `choice`, or write them as one "
    "expression or terminal (in Lark a name in capitals)"
)
"""End of an error message, after the name of the constraint or the rule."""
_MANY = 500
"""A rule with more alternatives is checked: each is several of llguidance's items if parts of it are optional."""
_MOST_ASKED = 3
"""Most rules of one grammar that are checked: each takes another compilation."""
_MOST_STEPS = 200_000
"""Most steps from rule to rule while alternatives are counted: these take a tenth of a second."""
_RULE = re.compile(r"^[ \t]*[?!]?([a-z_]\w*|[A-Z]\w*)(?:\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)
_START = re.compile(r"^([ \t]*[?!]?)start(?=\[|[ \t]*:)", re.MULTILINE)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')
"""Texts and regular expressions in Lark."""
_SYMBOL = re.compile(r'[a-zA-Z_]\w*|["()|\[\]]')


def has_too_many_alternatives(error: str) -> bool:
    """Whether an error of llguidance is about the number of alternatives at one place."""
    return "items; max is" in error


def crowded_rules(grammar: str) -> Iterator[str]:
    """Rules with many alternatives at their beginning, including those of the rules that they begin with; most
    alternatives first. Leaves out `start` and whatever it, or a rule that was yielded before, begins with."""
    counts, begins_with = _beginnings(grammar)
    reached: dict[str, set[str]] = {}
    num_steps = 0
    for rule in counts:
        reached[rule] = _reached(rule, begins_with, _MOST_STEPS - num_steps)
        num_steps += len(reached[rule])
    totals = {rule: sum(counts[one] for one in others) for rule, others in reached.items()}
    known: set[str] = set(reached.get("start", ()))
    num_asked = 0
    for rule in sorted((one for one in totals if totals[one] > _MANY), key=lambda one: -totals[one]):
        if rule not in known and num_asked < _MOST_ASKED:
            known |= reached[rule]
            num_asked += 1
            yield rule


def behind_a_text(grammar: str, rule: str) -> str:
    """A grammar that matches a full stop and then a rule of `grammar`. The full stop is needed because llguidance joins
    many texts into one terminal at the very beginning of a grammar, and nowhere else."""
    return _START.sub(r"\1start_of_all", grammar) + f'\nstart: "." {rule}\n'


def _reached(rule: str, begins_with: Mapping[str, set[str]], most: int) -> set[str]:
    """A rule and those that it may begin with, directly or indirectly. The search stops at `most` rules."""
    reached, open_rules = {rule}, [rule]
    while open_rules and len(reached) < most:
        new = begins_with[open_rules.pop()] - reached
        reached |= new
        open_rules += new
    return reached


def _beginnings(grammar: str) -> tuple[dict[str, int], dict[str, set[str]]]:
    """The number of alternatives of each rule, and the rules that these begin with. A terminal is one alternative."""
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
    """The number of alternatives at the beginning of a rule, also within groups, and the names that they begin with."""
    count, names = 1, set[str]()
    groups = [True]
    """for each open group, whether it is at the beginning of the rule"""
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
