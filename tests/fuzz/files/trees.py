"""Random changes to what a JSON or YAML file says, so that it still parses."""

from __future__ import annotations

import copy
import random
from typing import Any

EDGES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    -(2**63),
    2**64,
    10**30,
    0.0,
    -0.5,
    1e-320,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "a",
    "\x00",
    "\ud800",
    "../../etc/passwd",
    "/dev/zero",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    [0] * 100,
    {"": {}},
    {"type": "none"},
)


def mutate_tree(tree: Any, source: random.Random) -> Any:
    """A copy of the tree after one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        tree = _change(tree, source)
    return tree


def _change(tree: Any, source: random.Random) -> Any:
    places = list(_places(tree))
    if not places:
        return source.choice(EDGES)
    container, key = source.choice(places)
    match source.randrange(9):
        case 0 if isinstance(container, dict):
            del container[key]
        case 1 if isinstance(container, list):
            container.insert(key, container[key])
        case 2:
            other, other_key = source.choice(places)
            container[key] = copy.deepcopy(other[other_key])
        case 3 if isinstance(container, dict):
            container[source.choice(("", "type", "\x00", str(key).upper(), f"{key}s", "x" * 200))] = container[key]
        case 4 if isinstance(container[key], int | float) and not isinstance(container[key], bool):
            container[key] = _near(container[key], source)
        case 5:
            container[key] = [container[key]] * source.choice((1, 2, 50))
        case 6 if isinstance(container[key], str):
            container[key] = _spoilt(container[key], source)
        case _:
            container[key] = copy.deepcopy(source.choice(EDGES))
    return tree


def _places(tree: Any) -> Any:
    """Every (container, key) below a tree; of long lists and tables only the first items."""
    stack = [tree]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for count, (key, value) in enumerate(items):
            if count >= 40:
                break
            yield node, key
            stack.append(value)


def _near(value: float, source: random.Random) -> float:
    return source.choice((value + 1, value - 1, -value, value * 2, value * 1000, value // 2, float(value), str(value)))  # type: ignore[return-value]


def _spoilt(text: str, source: random.Random) -> str:
    position = source.randint(0, len(text))
    piece = source.choice(("", " ", "\x00", "\ud800", "😀", "%s", "{}", "/", "..", text))
    return text[:position] + piece + text[position + source.randint(0, 3) :]
