"""Raw rows of GGUF kinds: random bytes, but for the numbers in half precision."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES

HALVES_AT: dict[Kind, tuple[int, ...]] = {
    Kind.Q4_0: (0,),
    Kind.Q4_1: (0, 2),
    Kind.Q5_0: (0,),
    Kind.Q5_1: (0, 2),
    Kind.Q8_0: (0,),
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
    Kind.IQ4_NL: (0,),
    Kind.IQ4_XS: (0,),
    Kind.MXFP4: (),
}
"""Where a block of each kind has numbers in half precision."""
DENSE_KINDS = (Kind.F32, Kind.F16, Kind.BF16)
Numbers = Literal["ordinary", "extreme", "powers"]
"""of the halves: such as models have; the ends of what there is; powers of two, with which fp32 arithmetic is exact"""
_EXTREMES = (0.0, -0.0, 2.0**-24, -(2.0**-24), 1023 * 2.0**-24, 2.0**-14, 65504.0, -65504.0, np.inf, -np.inf, np.nan)


def raw_rows(
    kind: Kind, num_rows: int, num_columns: int, numbers: Numbers = "ordinary", seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Bytes [N, row_bytes]."""
    rng = np.random.default_rng([seed, int(kind)])
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    if kind in DENSE_KINDS:
        values = rng.standard_normal((num_rows, num_columns)).astype(np.float32)
        if kind == Kind.BF16:
            return np.ascontiguousarray(values.view(np.uint16)[:, 1::2]).view(np.uint8)
        return (values if kind == Kind.F32 else values.astype(np.float16)).view(np.uint8)
    blocks = rng.integers(0, 256, (num_rows, num_columns // block_weights, block_bytes), dtype=np.uint8)
    for at in HALVES_AT[kind]:
        blocks[..., at : at + 2] = _halves(rng, blocks.shape[:2], numbers)[..., None].view(np.uint8)
    if kind == Kind.MXFP4 and numbers != "extreme":
        blocks[..., 0] = rng.integers(100, 140, blocks.shape[:2])
    return blocks.reshape(num_rows, -1)


def _halves(rng: np.random.Generator, shape: tuple[int, ...], numbers: Numbers) -> npt.NDArray[np.float16]:
    match numbers:
        case "ordinary":
            return (rng.uniform(0.0001, 0.02, shape) * rng.choice([-1, 1], shape)).astype(np.float16)
        case "extreme":
            return rng.choice(_EXTREMES, shape).astype(np.float16)
        case "powers":
            return (2.0 ** rng.integers(-6, 3, shape)).astype(np.float16)
