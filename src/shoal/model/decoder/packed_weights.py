"""temporary"""

from __future__ import annotations

import numpy as np

from shoal import _native
from shoal.model.weights import BlockWeight, Precision, WeightSource


def _aligned(n):
    raw = np.zeros(n + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n]


class PackedWeights:
    def __init__(self, source: WeightSource, precision: Precision, pool: _native.ThreadPool) -> None:
        self._source, self._precision, self._pool = source, precision, pool
        self.num_bytes = 0

    def matrix(self, name: str) -> _native.Matrix:
        w = self._source.matrix(name, self._precision)
        if isinstance(w, BlockWeight):
            arrays = [w.scales_NG] + ([w.offsets_NG] if w.offsets_NG is not None else [])
            half = all((a.astype(np.float16).astype(np.float32) == a).all() for a in arrays)
            form = _native.blocks_form(w.bits, *w.shape, w.offsets_NG is not None, bool(half))
            out = _aligned(_native.layout_bytes(form))
            _native.pack_blocks(
                self._pool,
                form,
                np.ascontiguousarray(w.q_NGB),
                np.ascontiguousarray(w.scales_NG),
                None if w.offsets_NG is None else np.ascontiguousarray(w.offsets_NG),
                out,
            )
        else:
            v = np.ascontiguousarray(w.values_NK)
            form = _native.gguf_form(0, *v.shape, 0)
            out = _aligned(_native.layout_bytes(form))
            _native.pack_gguf(self._pool, 0, v.view(np.uint8), None, 0, v.shape[1], out)
        self.num_bytes += len(out)
        out.flags.writeable = False
        return _native.Matrix(form, out)
