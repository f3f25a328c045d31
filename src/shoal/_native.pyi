"""The C++ extension built from native/. Missing where there was no compiler: import it inside try."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from shoal.model.attention.interface import KV, AttentionStep

def supported_isas() -> list[str]:
    """Instruction sets that this processor can run, best first."""

class ThreadPool:
    """Compute threads, the caller of a layer among them."""

    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...

PackedForm = tuple[int, int, int, int, int, int, int, int]
"""What a packed matrix is, without its memory: how codes, scales and offsets are held, zero point, outputs, inputs,
inputs that share a scale, first block of the first super-block. See native/gemm/matrix.h."""

class Matrix:
    """A packed matrix in memory that belongs to someone else, which it keeps alive."""

    def __init__(self, form: PackedForm, data: npt.NDArray[np.uint8]) -> None:
        """Raises ValueError for a form that cannot be, or data of another size or not at a multiple of 64 bytes."""
    @property
    def form(self) -> PackedForm: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def num_bytes(self) -> int: ...
    def unpack_rows(self, rows: npt.NDArray[np.int32], out: npt.NDArray[np.float32]) -> None:
        """Writes the weights of some outputs: scale * (code - zero_point) rounded, then + offset rounded."""

def checksum(pool: ThreadPool, data: npt.NDArray[np.uint8]) -> int:
    """64 bits, the same for any number of threads; a change within one word always changes them. Releases the GIL."""

def map_file(fd: int, num_bytes: int) -> npt.NDArray[np.uint8]:
    """Maps the beginning of a file, read-only and shared; holds no descriptor. Raises OSError."""

def layout_bytes(form: PackedForm) -> int:
    """What the memory of such a matrix takes. Raises ValueError for a form that cannot be."""

def gguf_form(kind: int, num_outputs: int, num_inputs: int, first_input: int) -> PackedForm:
    """The form of some inputs of a matrix of a GGML type. Raises ValueError where it has none, or blocks are cut."""

def blocks_form(bits: int, num_outputs: int, num_inputs: int, scales: int, offsets: int) -> PackedForm:
    """The form of a `BlockWeight`, whose scales and offsets are held so: see `enum Scales` in native/gemm/matrix.h.
    Raises ValueError for what they cannot be."""

def coded_form(
    codes: int, num_outputs: int, num_inputs: int, scales: int, offsets: int, part_inputs: int, first_input: int
) -> PackedForm:
    """The form of `CodedRows`; see `blocks_form` and `enum Codes`."""

def pack_gguf(
    pool: ThreadPool,
    kind: int,
    rows: npt.NDArray[np.uint8],
    order: npt.NDArray[np.int32] | None,
    first_input: int,
    num_inputs: int,
    out: npt.NDArray[np.uint8],
) -> None:
    """Packs rows [N, row_bytes] of a GGML type, of which output i is row order[i], into memory of `layout_bytes`.

    Releases the GIL. Raises ValueError for sizes that do not fit, TypeError for arrays of another type or layout.
    """

def pack_blocks(
    pool: ThreadPool,
    form: PackedForm,
    codes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.uint8],
    first_output: int = 0,
) -> None:
    """Packs the arrays of a `BlockWeight`, or of those of its rows that begin with `first_output`, whole tiles; see
    `pack_gguf`. Raises ValueError where a scale or an offset is no number of the kind that the form says."""

def pack_coded(
    pool: ThreadPool,
    form: PackedForm,
    codes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float32],
    zero_points: npt.NDArray[np.uint8] | None,
    groups: npt.NDArray[np.int32] | None,
    out: npt.NDArray[np.uint8],
) -> None:
    """Packs the arrays of `CodedRows`; see `pack_blocks`."""

def multiply(
    pool: ThreadPool,
    matrix: Matrix,
    values: npt.NDArray[np.float32],
    exact_activations: bool,
    isa: str,
    out: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None = None,
    adds: bool = False,
    activation: int = -1,
) -> None:
    """out [T, N] = values [T, K] W^T + bias, behind an activation or added to `out`, as a stage multiplies.

    Releases the GIL. `activation`: as of `multiply_gated`; -1: none.

    Raises ValueError for shapes that do not fit, or an instruction set that the processor does not have.
    """

def multiply_gated(
    pool: ThreadPool,
    gate: Matrix,
    up: Matrix,
    activation: int,
    values: npt.NDArray[np.float32],
    exact_activations: bool,
    isa: str,
    out: npt.NDArray[np.float32],
    gate_bias: npt.NDArray[np.float32] | None = None,
    up_bias: npt.NDArray[np.float32] | None = None,
) -> None:
    """For tests: out = activation(gate) * up; `activation`: 0 is SiLU, 1 GELU, 2 its form with tanh, 3 the clamped
    SwiGLU of gpt-oss, 4 ReLU squared. See `multiply`."""

def multiply_grouped(
    pool: ThreadPool,
    matrices: Sequence[Matrix],
    starts: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    exact_activations: bool,
    isa: str,
    out: npt.NDArray[np.float32],
) -> None:
    """For tests: rows [starts[i], starts[i + 1]) of `values` times matrix i, all of one shape. See `multiply`."""

def look_over(
    pool: ThreadPool,
    logits: Sequence[npt.NDArray[np.float32]],
    allowed: Sequence[bytes],
    first_times: npt.NDArray[np.int32],
    num_top: npt.NDArray[np.int32],
    isa: str,
    best: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
    top: npt.NDArray[np.int32],
    top_logits: npt.NDArray[np.float32],
) -> None:
    """Looks over R rows of logits, all of one length, see `shoal.model.decoder.sampling.look_over`. Releases the GIL.

    Mutates: logits that are not allowed become -inf; so do those that are no times, where all times together are
    likelier than any of them.

    Args:
        allowed: a bit for each token, the lowest of the first byte first; empty: all are.
        first_times: the first token of those that are times, 0 where none are.
        num_top: how many of the largest are wanted; -1: not even the sum.
        best: written to: the index of each row's largest logit, ties to the smaller.
        sums: written to: of e**(logit - best logit).
        top: written to, [R, K]: the indices of the largest, ties to the smaller.
        top_logits: written to, [R, K].

    Raises ValueError for shapes that do not fit, or an instruction set that the processor does not have.
    """

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
    def set_states(self, slots: npt.NDArray[np.int32], saves: npt.NDArray[np.int32], num_slots: int) -> None:
        """What recurrent layers do with states: slots [B, 2] and saves [S, 3], see `shoal.protocol.messages.Step`.

        Raises ValueError for slots that are not there, or of which one would be written twice.
        """
    def set_adapters(self, adapters: npt.NDArray[np.int32], num_adapters: int) -> None:
        """The adapter of each sequence [B], -1: none. Raises ValueError for one that there is not."""
    def set_angles(self, cos: npt.NDArray[np.float32], sin: npt.NDArray[np.float32]) -> None:
        """Cosine and sine [T, rotary_dim / 2] of the angles that rows turn by in every layer, in the place of those of
        their positions. Raises ValueError for another number of rows."""
    def set_added(self, rows: npt.NDArray[np.int32], values: npt.NDArray[np.float32]) -> None:
        """What rows [N] are added behind each of the stage's first layers, [layers, N, hidden size]. Raises ValueError
        for a row that there is not."""
    def set_ends_seen(self, ends: npt.NDArray[np.int32]) -> None:
        """The key before which each row sees [T], in the place of the one behind its own. Raises ValueError where one
        lies not behind the row or beyond its context, or where a row sees less than the one above it."""
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...

AdapterGroup = tuple[Matrix, Sequence[tuple[str, Matrix, int, float]]]
"""What an adapter adds to products that meet the same rows: A of all of them, and for each its name, B, its first rank
and its scale. See native/stage/adapters.h."""

class RecurrentLayer:
    """A layer with a state for each sequence, in the place of attention."""

def short_conv_layer(
    pool: ThreadPool,
    taps: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    states: npt.NDArray[np.float32],
    isa: str = "",
) -> RecurrentLayer:
    """LFM2's gated short convolution. Shapes: taps [K, C], that of the oldest token first; bias [C];
    states [slots, (K - 1) C]. Raises ValueError for shapes that do not fit each other."""

def delta_layer(
    *,
    pool: ThreadPool,
    num_key_heads: int,
    num_value_heads: int,
    key_dim: int,
    value_dim: int,
    in_turn: bool,
    taps: npt.NDArray[np.float32],
    rates: npt.NDArray[np.float32],
    decay_biases: npt.NDArray[np.float32],
    norm: npt.NDArray[np.float32],
    epsilon: float,
    states: npt.NDArray[np.float32],
    isa: str = "",
) -> RecurrentLayer:
    """The gated delta rule of some heads behind a convolution.

    Shapes: taps [K, channels of queries, keys and values]; rates and decay_biases [value heads]; norm [value_dim];
    states [slots, (K - 1) channels + value heads key_dim value_dim]. Raises ValueError for shapes that do not fit.
    """

def scan_layer(
    *,
    pool: ThreadPool,
    num_groups: int,
    num_heads: int,
    head_dim: int,
    state_dim: int,
    taps: npt.NDArray[np.float32],
    taps_bias: npt.NDArray[np.float32] | None,
    rates: npt.NDArray[np.float32],
    step_biases: npt.NDArray[np.float32],
    skips: npt.NDArray[np.float32],
    norm: npt.NDArray[np.float32],
    epsilon: float,
    states: npt.NDArray[np.float32],
    isa: str = "",
) -> RecurrentLayer:
    """Heads of Mamba-2 behind a convolution.

    Shapes: taps [K, channels of x, what is written and what is read], taps_bias [channels]; rates, step_biases and
    skips [heads]; norm [heads head_dim]; states [slots, (K - 1) channels + heads head_dim state_dim]. Raises ValueError
    for shapes that do not fit.
    """

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
        in_chunks: bool,
        sees_all: bool,
        softcap: float,
        norm_epsilon: float,
        only_reads: bool,
        keys: KV,
        values: KV,
        cos: npt.NDArray[np.float32],
        sin: npt.NDArray[np.float32],
        sinks: npt.NDArray[np.float32] | None = None,
        q_norm: npt.NDArray[np.float32] | None = None,
        k_norm: npt.NDArray[np.float32] | None = None,
        query_scales: npt.NDArray[np.float32] | None = None,
        key_scales: npt.NDArray[np.float32] | None = None,
        value_scales: npt.NDArray[np.float32] | None = None,
        isa: str = "",
    ) -> None: ...
    def run(self, qkv: npt.NDArray[np.float32], out: npt.NDArray[np.float32], step: AttentionStep, /) -> None:
        """Raises TypeError for a step that is not a `StepMetadata`."""

class StageLayer:
    """One layer's weights, by the names of `WeightSource`, and its attention; keeps all of them alive."""

    def __init__(
        self,
        matrices: dict[str, Matrix],
        vectors: dict[str, npt.NDArray[np.float32]],
        attention: AttentionLayer | None,
        experts: Sequence[tuple[int, int, int, int]] = (),
        recurrent: RecurrentLayer | None = None,
        inputs: Sequence[str] = (),
        output: str = "o",
        cross: AttentionLayer | None = None,
        has_mixer: bool = True,
        has_mlp: bool = True,
        adapters: Sequence[Sequence[AdapterGroup]] = (),
        shared_norm: tuple[int, float] | None = None,
        gate_cut: tuple[float, int] | None = None,
    ) -> None:
        """
        Args:
            matrices: of the layer.
            vectors: of the layer.
            attention: None in a recurrent layer, and in a shard without heads.
            experts: spans of those that it holds, as `shoal.protocol.stage_config.ExpertSpan` has them.
            recurrent: None in a layer with attention, and in a shard without channels.
            inputs: matrices that a recurrence is computed from; empty: the layer has attention.
            output: matrix behind attention or recurrence.
            cross: attention over what an encoder gave; None: the layer has none.
            has_mixer: whether it has attention or a recurrence, here or on another shard.
            has_mlp: the same of an MLP or experts.
            adapters: of the stage, by their numbers, as far as they change the layer.
            shared_norm: channels and epsilon of a recurrence's norm of whose channels other shards have some.
        """

class ExpertsShape:
    """What all layers with experts have in common. Raises ValueError for what cannot be."""

    def __init__(
        self,
        *,
        num_experts: int,
        num_chosen: int,
        num_columns: int,
        num_shared_columns: int,
        has_sigmoid: bool,
        is_normalized: bool,
        scale: float,
        num_groups: int,
        num_chosen_groups: int,
        num_group_scores: int,
        scales_input: bool,
        mixer_limit: float,
    ) -> None: ...

class LatentShape:
    """Latent attention, which all layers of a stage have: native/stage/latent.h."""

    def __init__(
        self,
        *,
        query_rank: int,
        latent_dim: int,
        plain_dim: int,
        rotary_dim: int,
        value_dim: int,
        norm_epsilon: float,
        is_interleaved: bool,
    ) -> None: ...

class StreamsShape:
    """See `shoal.model.layer_config.variants.AltUpConfig`."""

    def __init__(self, *, num_streams: int, active: int, scales_output: bool, rank: int) -> None: ...

class Stage:
    """The layers of a stage, or of a shard of one; see `shoal.model.decoder.native.native_layers`. Releases the GIL."""

    def __init__(
        self,
        pool: ThreadPool,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        max_rows: int,
        norm_epsilon: float,
        residual_scale: float,
        activation: str,
        exact_activations: bool,
        joins_qk_norm: bool,
        parts_qk_norm: bool,
        centers_norms: bool,
        is_parallel: bool,
        layers: Sequence[StageLayer],
        experts: ExpertsShape | None = None,
        latent: LatentShape | None = None,
        streams: StreamsShape | None = None,
        inputs: tuple[int, int] | None = None,
        first_layer: int = 0,
        isa: str = "",
    ) -> None:
        """`inputs`: values of a layer's own input, and layers of the model, where they have some."""

    def begin(
        self,
        ends: StageLayer,
        embedding: npt.NDArray[np.float32],
        looked_up: npt.NDArray[np.float32] | None,
        x: npt.NDArray[np.float32],
    ) -> None:
        """What rows carry, of their embedding and of what the table of layers' inputs has."""

    def finish(self, ends: StageLayer, x: npt.NDArray[np.float32]) -> None:
        """The hidden state that the head takes, in the first values of every row."""

    def expert_rows(self, layer: int) -> list[int]:
        """Rows that chose each expert of a layer so far, whichever shard has it; none where it has no experts."""

    def run(
        self,
        x: npt.NDArray[np.float32],
        step: AttentionStep,
        sum_over_shards: Callable[[npt.NDArray[np.float32]], None] | None,
        memories: StepMetadata | None = None,
        queries: npt.NDArray[np.float32] | None = None,
        tails: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """A `GroupSum` is run without a call of Python. `memories`: the same rows over what an encoder gave. `queries`:
        takes what each layer asks of that, before it is scaled, [layers * T, q width]. `tails`: how many of each
        sequence's last rows, [B], are wanted of the last layer, which then leaves the others undefined; None: all."""

    def remember(self, memory: npt.NDArray[np.float32], step: StepMetadata) -> None:
        """Keep the keys and values of what an encoder gave."""

    def hidden(
        self,
        x: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int32],
        norm: npt.NDArray[np.float32],
        norm_bias: npt.NDArray[np.float32] | None,
        out: npt.NDArray[np.float32],
    ) -> None:
        """Rows behind the model's last norm. Raises ValueError for a row that is not there."""

    def logits(
        self,
        x: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int32],
        norm: npt.NDArray[np.float32],
        norm_bias: npt.NDArray[np.float32] | None,
        head: Matrix,
        bias: npt.NDArray[np.float32] | None,
        scale: float,
        softcap: float,
        out: npt.NDArray[np.float32],
    ) -> None: ...

def skip_strings(data: Buffer, position: int, count: int) -> int:
    """See `shoal.model.formats.gguf_strings`. Raises ValueError."""

def read_strings(data: Buffer, position: int, count: int) -> list[str]:
    """See `shoal.model.formats.gguf_strings`. Raises ValueError."""

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

class GroupSum:
    """Sums over a group, whichever way `switch_bytes` says. `on_failed` raises what (failure, rank) is in Python."""

    def __init__(
        self, group: Collective, switch_bytes: int, timeout_s: float, on_failed: Callable[[int, int], None]
    ) -> None: ...
    def __call__(self, x: npt.NDArray[np.float32]) -> None: ...
    def take_wait_s(self) -> float:
        """Seconds spent in sums since this was last asked."""
