"""A name means one thing: no two public classes share one, and array types have theirs from `shoal.arrays`."""

import ast
import re
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "shoal"
ALIAS = re.compile(r"^(\w+) = npt\.NDArray\[np\.(?:float32|float64|int32|int64|uint8)\]$", re.MULTILINE)


def public_classes() -> Counter[str]:
    return Counter(
        node.name
        for file in SOURCE.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def test_no_public_class_name_stands_twice() -> None:
    assert {name for name, count in public_classes().items() if count > 1} == set()


def test_array_types_have_their_names_from_one_module() -> None:
    files = {file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if ALIAS.search(file.read_text())}
    assert files == {"arrays.py"}
