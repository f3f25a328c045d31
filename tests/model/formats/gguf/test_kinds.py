"""The numbers of the GGUF format against those of the gguf package."""

from enum import IntEnum

import gguf
import pytest

from shoal.model.formats.gguf.kinds import BLOCK_SIZES, DEFAULT_ALIGNMENT, Kind, ValueType


@pytest.mark.parametrize(
    ("own", "package"), [(Kind, gguf.GGMLQuantizationType), (ValueType, gguf.GGUFValueType)], ids=["kinds", "types"]
)
def test_names_and_numbers(own: type[IntEnum], package: type[IntEnum]) -> None:
    """An older package knows fewer of them, a newer one perhaps more."""
    known = {one.name: int(one) for one in package}
    both = {one.name: int(one) for one in own if one.name in known}
    assert len(both) >= 13
    assert both == {name: known[name] for name in both}


def test_blocks() -> None:
    assert set(BLOCK_SIZES) == set(Kind)
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: size for kind, size in BLOCK_SIZES.items() if kind in sizes} == {
        kind: sizes[kind] for kind in Kind if kind in sizes
    }
    assert DEFAULT_ALIGNMENT == gguf.GGUF_DEFAULT_ALIGNMENT
