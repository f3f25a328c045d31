"""How many rows a device computes for a given number of rows.

Some providers compile a graph again for each new shape (MIGraphX, TensorRT, OpenVINO on GPUs), which takes longer than
any step. So rows are padded to a few dozen different counts.
"""

from __future__ import annotations

_EVEN_STEPS = 64
"""From this many rows on, counts are multiples of it, so that long pieces of prompts are padded little; smaller counts
are powers of two."""


def padded_count(num_rows: int) -> int:
    """Rows to compute for `num_rows`, which is at least 1."""
    if num_rows > _EVEN_STEPS:
        return -(-num_rows // _EVEN_STEPS) * _EVEN_STEPS
    return 1 << (num_rows - 1).bit_length()
