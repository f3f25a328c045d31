"""Checks that a file's tensors are those that the model's settings describe: none missing, none unused, all of the
right shape.

Both formats are checked in the same way, once, when the file is opened; later readers can rely on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig, EncoderConfig
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.layer_config.attention import LatentConfig
from shoal.model.layer_config.experts import ExpertsConfig

Shape = tuple[int, ...]
CONV_TAPS = 3
"""Taps of an audio encoder's convolutions. Source: Whisper, arXiv 2212.04356, section 2.2"""
_CROSS_NAMES = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias")


def expected_shapes(config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    """Yields the name in `WeightSource` and the shape of every matrix and vector of a model.

    An absurd number of layers costs nothing: whoever looks up the tensors stops at the first one that is missing.
    """
    if config.encoder is not None:
        yield from _encoder_shapes(config.encoder)
    yield "embedding", (config.vocab_size, config.hidden_size)
    if config.learned_positions:
        yield "positions", (config.max_context, config.hidden_size)
    yield from first_shapes(config).items()
    for layer in range(config.num_layers):
        for name, shape in layer_shapes(config, layer).items():
            yield f"layers.{layer}.{name}", shape
    yield "final_norm", (config.hidden_size,)
    if config.norm_bias:
        yield "final_norm_bias", (config.hidden_size,)
    yield from last_shapes(config).items()
    yield "head", (config.vocab_size, config.hidden_size)
    if config.head_bias:
        yield "head_bias", (config.vocab_size,)


def _encoder_shapes(encoder: EncoderConfig) -> Iterator[tuple[str, Shape]]:
    """The tensors of an audio encoder, whose names begin with `encoder.`"""
    layers = encoder.layers
    hidden = layers.hidden_size
    for name, num_inputs in (("conv1", encoder.num_mels), ("conv2", hidden)):
        yield f"encoder.{name}", (hidden, num_inputs, CONV_TAPS)
        yield f"encoder.{name}_bias", (hidden,)
    yield "encoder.positions", (layers.max_context, hidden)
    for layer in range(layers.num_layers):
        for name, shape in layer_shapes(layers, layer).items():
            yield f"encoder.layers.{layer}.{name}", shape
    yield "encoder.final_norm", (hidden,)
    yield "encoder.final_norm_bias", (hidden,)


def first_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Tensors of a model's first stage besides its embedding and its layers."""
    shapes = {} if config.altup is None else dict(config.altup.first_shapes(config.hidden_size))
    if config.layer_inputs is not None:
        shapes |= config.layer_inputs.top_shapes(config.hidden_size, config.num_layers)
    return shapes


def last_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Tensors of a model's last stage between its layers and the head, without the norm."""
    return {} if config.altup is None else dict(config.altup.last_shapes(config.hidden_size))


def layer_shapes(config: DecoderConfig, layer: int) -> dict[str, Shape]:
    """Every matrix and vector of a layer, by its name in `WeightSource` without `layers.i.`"""
    mixer = _mixer_shapes(config, layer) | _norm_shapes(config, layer) | _variant_shapes(config)
    return mixer | _feed_forward_shapes(config, layer)


def _mixer_shapes(config: DecoderConfig, layer: int) -> dict[str, Shape]:
    """Tensors of attention, or of what a layer has instead."""
    if layer in config.no_mixer_layers:
        return {}
    recurrence = config.layer_recurrence(layer)
    mixer = _attention_shapes(config, layer) if recurrence is None else dict(recurrence.shapes(config.hidden_size))
    return mixer if config.encoder is None else mixer | _cross_shapes(config)


def _feed_forward_shapes(config: DecoderConfig, layer: int) -> dict[str, Shape]:
    """Tensors of an MLP, or of the experts that a layer has instead."""
    if not config.has_mlp(layer):
        return {}
    experts = config.layer_experts(layer)
    names = ("gate", "up", "down") if config.gated_mlp else ("up", "down")
    if experts is not None:
        return _expert_shapes(config.hidden_size, experts, layer, names)
    return _mlp_shapes("", config.hidden_size, config.columns(layer), names, has_biases=config.mlp_bias)


def _variant_shapes(config: DecoderConfig) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"layer_scale": (1,)} if config.layer_scales else {}
    if config.layer_inputs is not None:
        shapes |= config.layer_inputs.shapes(config.hidden_size)
    if config.altup is not None:
        shapes |= config.altup.shapes(config.hidden_size)
    return shapes


def _norm_shapes(config: DecoderConfig, layer: int) -> dict[str, Shape]:
    """Tensors of the norms that belong to each half (mixer, MLP) that a layer has."""
    halves = ((layer not in config.no_mixer_layers, "attn"), (config.has_mlp(layer), "mlp"))
    own = [half for is_there, half in halves if is_there]
    before = own[:1] if config.shares_norm else own
    norms = [f"{half}_norm" for half in before] if config.pre_norms else []
    biases = [f"{name}_bias" for name in norms if config.norm_bias]
    post_norms = [f"post_{half}_norm" for half in own] if config.post_norms else []
    return dict.fromkeys((*norms, *biases, *post_norms), (config.hidden_size,))


def _attention_shapes(config: DecoderConfig, layer: int) -> dict[str, Shape]:
    hidden, heads, has_keys = config.hidden_size, config.layer_heads(layer), config.kv_source(layer) == layer
    q_rows, kv_rows = config.num_heads * heads.head_dim, heads.num_kv_heads * heads.head_dim
    shapes: dict[str, Shape] = {"q": (q_rows, hidden)}
    shapes |= {"k": (kv_rows, hidden)} if has_keys else {}
    shapes |= {"v": (kv_rows, hidden)} if config.has_values(layer) else {}
    if config.latent is not None:
        shapes = _latent_shapes(config, config.latent)
    shapes["o"] = (hidden, config.result_columns if config.latent is not None else q_rows)
    if config.gates_attention:
        shapes["q_gate"] = (q_rows, hidden)
    if config.qkv_bias:
        shapes["q_bias"] = (q_rows,)
        shapes |= {"k_bias": (kv_rows,)} if config.keys_biased else {}
        shapes["v_bias"] = (kv_rows,)
    if config.o_bias:
        shapes["o_bias"] = (hidden,)
    if config.attention_sinks:
        shapes["sinks"] = (config.num_heads,)
    if config.qk_norm:
        is_wide = config.joins_qk_norm or config.parts_qk_norm
        widths = (q_rows, kv_rows) if is_wide else (heads.head_dim, heads.head_dim)
        shapes |= {"q_norm": (widths[0],)} | ({"k_norm": (widths[1],)} if has_keys else {})
    return shapes


def _cross_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Tensors of attention over an encoder's output, which has as many heads as the layer's own attention."""
    own = {name: shape for name, shape in _attention_shapes(config, 0).items() if name in _CROSS_NAMES}
    norms = ("cross_norm", "cross_norm_bias") if config.norm_bias else ("cross_norm",)
    return {f"cross_{name}": shape for name, shape in own.items()} | dict.fromkeys(norms, (config.hidden_size,))


def _latent_shapes(config: DecoderConfig, latent: LatentConfig) -> dict[str, Shape]:
    """Tensors of latent attention. A shard without heads has no rows of any of them."""
    hidden, rank, has_heads = config.hidden_size, latent.query_rank, config.num_heads > 0
    shapes: dict[str, Shape] = {"q": (config.query_columns, rank or hidden)}
    if rank:
        shapes |= {"q_down": (rank if has_heads else 0, hidden), "q_down_norm": (rank,)}
    shapes |= {"latent_down": (latent.key_dim if has_heads else 0, hidden), "latent_norm": (latent.latent_dim,)}
    for head in range(config.num_heads):
        shapes[f"heads.{head}.k_up"] = (latent.latent_dim, latent.plain_dim)
        shapes[f"heads.{head}.v_up"] = (latent.value_dim, latent.latent_dim)
    return shapes


def _mlp_shapes(
    prefix: str, hidden: int, columns: int, names: Collection[str], *, has_biases: bool = False
) -> dict[str, Shape]:
    rows = {name: hidden if name == "down" else columns for name in names}
    inputs = {name: columns if name == "down" else hidden for name in names}
    shapes: dict[str, Shape] = {f"{prefix}{name}": (rows[name], inputs[name]) for name in names}
    return shapes | {f"{prefix}{name}_bias": (rows[name],) for name in names if has_biases}


def _expert_shapes(hidden: int, experts: ExpertsConfig, layer: int, names: Collection[str]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"router": (experts.num_experts, hidden)}
    if experts.router_bias:
        shapes["router_bias"] = (experts.num_experts,)
    if experts.selection_bias:
        shapes["selection_bias"] = (experts.num_experts,)
    for expert in experts.numbers_in(layer):
        shapes |= _mlp_shapes(f"experts.{expert}.", hidden, experts.columns, names, has_biases=experts.biases)
    if experts.shared_columns:
        shapes |= _mlp_shapes("shared_", hidden, experts.shared_columns, names)
    if experts.shared_columns and experts.shared_router:
        shapes["shared_router"] = (1, hidden)
    if experts.has_own_norms:
        norms = ("router_norm", "experts_norm", "post_experts_norm", "post_shared_norm")
        shapes |= dict.fromkeys(norms, (hidden,)) | {"expert_scales": (experts.num_experts,)}
    return shapes


def unstacked(shape: Shape, part: TensorPart) -> Shape:
    """A tensor's shape with the rows of all items of a stack below each other; () if it is not a stack of this size."""
    if part.stack == 0:
        return shape
    return (shape[0] * shape[1], *shape[2:]) if len(shape) > 1 and shape[0] == part.stack else ()


def check_tensors(
    where: Path,
    config: DecoderConfig,
    *,
    shape_of: Mapping[str, Shape],
    locate: Callable[[str], TensorPart],
    is_needless: Callable[[str], bool],
) -> set[str]:
    """Check all tensors of a model. Returns the names of those from which it is computed.

    Args:
        where: the file or folder, for errors.
        config: what the settings say.
        shape_of: shape of every tensor of the file.
        locate: returns the rows that hold a name of `WeightSource`; raises ModelLoadError if there are none.
        is_needless: whether the model computes the same without a tensor of this name.

    Raises:
        ModelLoadError: a tensor is missing, has another shape, or would be ignored.
    """
    used: dict[str, int] = {}
    num_rows: dict[str, int] = {}
    for name, expected in expected_shapes(config):
        part = locate(name)
        shape = unstacked(shape_of[part.tensor], part)
        inputs = shape[1:] if not part.turned else (part.num_inputs,) if shape[1:] == (part.turned,) else ()
        if (
            len(shape) != len(expected)
            or inputs != expected[1:]
            or part.num_rows != expected[0]
            or part.stop > shape[0]
        ):
            raise ModelLoadError(
                f"{where}: {part.tensor} has the shape {list(shape_of[part.tensor])}, but the model's "
                f"settings need {list(expected)} as {name!r}"
            )
        used[part.tensor] = max(used.get(part.tensor, 0), part.stop)
        num_rows[part.tensor] = shape[0]
    for tensor, stop in used.items():
        if stop != num_rows[tensor]:
            raise ModelLoadError(f"{where}: {tensor} has {num_rows[tensor]} rows, but the model's settings use {stop}")
    unread = [tensor for tensor in shape_of if tensor not in used and not is_needless(tensor)]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise ModelLoadError(
            f"{where} contains {unread[0]}{more}, which a {config.family} model with these settings does not "
            "use; without it the answers would be wrong"
        )
    return set(used)
