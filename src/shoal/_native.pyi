"""The C++ extension built from native/. Missing where there was no compiler: import it inside try."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from shoal.model.attention.interface import KV, AttentionStep

def supported_isas() -> list[str]:
    """Instruction sets of the attention kernel that this processor can run, best first."""

class ThreadPool:
    """Compute threads, the caller of a layer among them."""

    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...

class StepMetadata:
    """See `shoal.model.attention.interface.Attention.step`. Raises ValueError, TypeError for anything but int32."""

    def __init__(
        self,
        positions: npt.NDArray[np.int32],
        query_starts: npt.NDArray[np.int32],
        context_lens: npt.NDArray[np.int32],
        block_tables: npt.NDArray[np.int32],
        num_blocks: int,
        block_size: int,
        max_context: int,
    ) -> None: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...

class AttentionLayer:
    """See `shoal.model.attention.interface.AttentionLayer`."""

    def __init__(
        self,
        pool: ThreadPool,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rotary_dim: int,
        scale: float,
        window: int,
        softcap: float,
        keys: KV,
        values: KV,
        cos: npt.NDArray[np.float32],
        sin: npt.NDArray[np.float32],
        isa: str = "",
    ) -> None: ...
    def run(self, qkv: npt.NDArray[np.float32], out: npt.NDArray[np.float32], step: AttentionStep, /) -> None:
        """Raises TypeError for a step that is not a `StepMetadata`."""

class Ring:
    """One end of a ring in shared memory (Linux); see `shoal.comm.python_ring.PythonRing`. Releases the GIL."""

    def __init__(self, fd: int) -> None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def write(self, source: Buffer, timeout_s: float) -> int: ...
    def read_into(self, target: Buffer, timeout_s: float) -> int: ...

class Collective:
    """One rank's end of a group in shared memory (Linux); see `shoal.comm.python_group`. Releases the GIL."""

    def __init__(self, fd: int, rank: int, size: int, generation: int, stays_awake: bool = True) -> None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def call_of(self, rank: int, /) -> tuple[int, int, int]: ...
    def all_reduce(self, x: npt.NDArray[np.float32], in_segments: bool, timeout_s: float) -> tuple[int, int] | None: ...
    def all_gather(self, part: Buffer, out: Sequence[Buffer], timeout_s: float) -> tuple[int, int] | None: ...
    def broadcast(self, data: Buffer, root: int, timeout_s: float) -> tuple[int, int] | None: ...
