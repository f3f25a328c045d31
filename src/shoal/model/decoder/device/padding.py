"""How many rows a device is given for those that there are.

Some providers compile a graph anew for each shape that is new to them (MIGraphX, TensorRT, OpenVINO on GPUs), which
takes longer than any step. So rows are padded to a few dozen counts.
"""

from __future__ import annotations

_EVEN_STEPS = 64
"""Rows from which on counts are its multiples, so that long pieces of prompts are padded by little; below they are
powers of two."""


def padded_count(num_rows: int) -> int:
    """Rows to compute for `num_rows`, which is at least 1."""
    if num_rows > _EVEN_STEPS:
        return -(-num_rows // _EVEN_STEPS) * _EVEN_STEPS
    return 1 << (num_rows - 1).bit_length()
