"""The table of families names exactly what can be read."""

from __future__ import annotations

import re
from pathlib import Path

from shoal.model.formats.gguf.architectures import ARCHITECTURES
from shoal.model.formats.huggingface.family_table import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_ROW = re.compile(r"\| [^|]+ \| (?P<model_types>[^|]*) \|(?P<architectures>[^|]*)\|[^|]*\|[^|]*\|")


def rows() -> list[re.Match[str]]:
    found = [_ROW.fullmatch(line) for line in PAGE.read_text().splitlines()]
    return [row for row in found if row is not None and "`" in row["model_types"] and "model_type`" not in row[0]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_model_type_has_one_row() -> None:
    listed = [name for row in rows() for name in names(row["model_types"])]
    assert sorted(listed) == sorted(FAMILIES)


def test_every_architecture_of_gguf_is_there() -> None:
    listed = {name for row in rows() for name in names(row["architectures"])}
    assert listed == set(ARCHITECTURES)
