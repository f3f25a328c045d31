"""An adapter that fits its model: the terms that it adds to the model's matrices, by the names of `WeightSource`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from shoal.errors import ConfigError, ModelLoadError, while_reading
from shoal.model.adapter.low_rank import LowRank
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.tensor_check import layer_shapes
from shoal.model.formats.tensor_part import Naming, TensorPart
from shoal.model.shard.source import ShardSource
from shoal.model.weights import WeightSource

MAX_RANK = 512
"""Source: vLLM's largest `max_lora_rank`."""
MAX_ADAPTERS = 256
"""Most adapters of a model, since all are in memory. Source: a judgment."""
PLACES: tuple[tuple[str, ...], ...] = (("q", "k", "v", "q_gate"), ("o",), ("gate", "up"), ("down",))
"""Matrices of a layer that may have adapters; those of a group are multiplied by the same rows."""
_ATTENTION = ("q", "k", "v", "q_gate", "o")
_HF_LEAVES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_SAME_IN_GGUF = ("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma", "gemma2", "gemma3", "smollm3")
"""GGUF architectures whose modules have the names that Hugging Face uses, and whose heads rotate by halves there."""
_NUMBERED = re.compile(r"(?:(?P<before>.*?)\.)?(?P<module>\w+\.\d+\..+)")
_CONTAINERS = {"model", "language_model", "text_model", "transformer", "gpt_neox", "decoder", "backbone"}
"""Names that may stand before the layers of a text model."""
_TILE = 16
"""Rows of a packed matrix are padded to a multiple of this. Source: native/gemm/matrix.h, kTileOutputs."""


@runtime_checkable
class NamedTensors(Protocol):
    """A source that knows in which tensor of its files a matrix lies."""

    @property
    def config(self) -> DecoderConfig: ...
    @property
    def naming(self) -> Naming: ...
    def locate(self, name: str) -> TensorPart:
        """The rows of a tensor that hold a matrix. Raises ModelLoadError."""
        ...


class Adapter:
    """The terms that one adapter adds, checked against the model. Their numbers are read when they are used."""

    def __init__(self, name: str, terms: Mapping[str, LowRank]) -> None:
        """
        Args:
            name: by which requests ask for it.
            terms: by the names of `WeightSource`, with rows in its order.
        """
        self.name = name
        self.terms = terms

    @property
    def max_ranks(self) -> int:
        """Largest sum of the ranks of terms that read the same rows: the numbers that a row needs in addition."""
        layers = {int(name.split(".")[1]) for name in self.terms}
        return max(
            (
                sum(self.terms[name].rank for leaf in leaves if (name := f"layers.{layer}.{leaf}") in self.terms)
                for layer in layers
                for leaves in PLACES
            ),
            default=0,
        )

    def group(self, source: WeightSource, layer: int, leaves: tuple[str, ...]) -> dict[str, LowRank]:
        """The terms for some matrices of a layer, or for a shard's parts of them. Matrices without weights are left
        out.

        Args:
            source: of the whole model, or a `ShardSource`.
            layer: its number.
            leaves: the matrices, one group of PLACES.
        """
        found = {leaf: self.terms[name] for leaf in leaves if (name := f"layers.{layer}.{leaf}") in self.terms}
        if isinstance(source, ShardSource):
            ranges = {leaf: source.ranges_of(f"layers.{layer}.{leaf}") for leaf in found}
            found = {leaf: term.part(*ranges[leaf]) for leaf, term in found.items()}
        return {leaf: term for leaf, term in found.items() if term.b.shape[0] and term.a.shape[1]}

    def layer_bytes(self, source: WeightSource, layer: int) -> tuple[int, int]:
        """Bytes in memory of the terms for attention and for the MLP of a layer."""
        attention = mlp = 0
        for leaves in PLACES:
            group = self.group(source, layer, leaves)
            held = sum(map(_packed_bytes, group.values()))
            attention, mlp = (attention + held, mlp) if leaves[0] in _ATTENTION else (attention, mlp + held)
        return attention, mlp


def open_adapter(name: str, path: Path, source: WeightSource) -> Adapter:
    """Read an adapter's headers and check them against its model.

    Args:
        name: by which requests ask for it.
        path: a directory that PEFT has written, or a GGUF file.
        source: the whole model's weights.

    Raises:
        ModelLoadError: a file is missing or broken, or the adapter belongs to another model or changes something that
            adapters cannot be added to.
        ConfigError: the model has only settings, or is a speech model.
    """
    if not isinstance(source, NamedTensors):
        raise ConfigError(f"adapter {name}: it needs a model with its weights, not settings alone")
    if source.config.encoder is not None:
        raise ConfigError(f"adapter {name}: models of speech with adapters are not supported")
    with while_reading(path):
        modules = _read(path, source)
    terms: dict[str, LowRank] = {}
    used: set[str] = set()
    rows_of = _rows_of_tensors(source, path)
    for leaf_name, shape, module, part in _places(source, path):
        term = modules.get(module)
        if term is None:
            continue
        _check(path, term, num_rows=rows_of[module], num_inputs=shape[1])
        terms[leaf_name] = term.rows(part.numbers(source.config.rope.rotary_dim))
        used.add(module)
    for module, term in modules.items():
        if module not in used:
            raise ModelLoadError(
                f"{path}: it changes {term.module}, but in this {source.config.family} model only projections "
                "of attention and MLPs without experts can have adapters"
            )
    if not terms:
        raise ModelLoadError(f"{path}: the adapter changes nothing")
    return Adapter(name, terms)


def adaptable_leaves(config: DecoderConfig, layer: int) -> tuple[str, ...]:
    """The matrices of a layer that may have adapters."""
    attention: tuple[str, ...] = ("q", "k", "v", "o", *(("q_gate",) if config.gates_attention else ()))
    if not config.has_attention(layer):
        attention = ()
    elif config.latent is not None:
        attention = ("o",)
    has_mlp = config.has_mlp(layer) and config.layer_experts(layer) is None
    mlp = (("gate", "up", "down") if config.gated_mlp else ("up", "down")) if has_mlp else ()
    return (*attention, *mlp)


def _read(path: Path, source: NamedTensors) -> dict[str, LowRank]:
    """The adapter's terms by the module names of `_places`."""
    if path.is_dir():
        from shoal.model.adapter.peft import read_peft

        return _by_layer(path, read_peft(path))
    from shoal.model.adapter.gguf import read_gguf

    if source.naming != "gguf":
        raise ModelLoadError(f"{path}: an adapter in GGUF needs a model in GGUF; give PEFT's directory instead")
    return read_gguf(path, source.config.family)


def _by_layer(path: Path, modules: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The terms by the parts of module names from the list of layers on, whatever stands before."""
    found: dict[str, LowRank] = {}
    for module, term in modules.items():
        numbered = _NUMBERED.fullmatch(module)
        before = numbered["before"] or "" if numbered else ""
        if numbered is None or not {*filter(None, before.split("."))} <= _CONTAINERS:
            raise ModelLoadError(f"{path}: it changes {module}, which is not part of a text model's layers")
        if numbered["module"] in found:
            raise ModelLoadError(f"{path}: it changes {numbered['module']} twice")
        found[numbered["module"]] = term
    return found


def _places(source: NamedTensors, path: Path) -> Iterator[tuple[str, tuple[int, ...], str, TensorPart]]:
    """Every matrix that may have adapters: its name, its shape, its module, and its rows in the module."""
    in_hf_names = path.is_dir() and source.naming == "gguf"
    if in_hf_names and source.config.family not in _SAME_IN_GGUF:
        raise ModelLoadError(
            f"{path}: modules of a {source.config.family} model in GGUF are not known by these names; convert it "
            "with llama.cpp's convert_lora_to_gguf.py"
        )
    for layer in range(source.config.num_layers):
        shapes = layer_shapes(source.config, layer)
        for leaf in adaptable_leaves(source.config, layer):
            name, shape = f"layers.{layer}.{leaf}", shapes[leaf]
            if in_hf_names:
                module = f"layers.{layer}.{_HF_LEAVES[leaf]}"
                yield name, shape, module, TensorPart(tensor=module, start=0, stop=shape[0])
                continue
            part = source.locate(name)
            module = part.tensor.removesuffix(".weight")
            if path.is_dir() and (numbered := _NUMBERED.fullmatch(module)):
                module = numbered["module"]
            yield name, shape, module, part


def _rows_of_tensors(source: NamedTensors, path: Path) -> dict[str, int]:
    """Number of rows of every module. The model's own check ensures that its matrices use all of them."""
    rows: dict[str, int] = {}
    for _, _, module, part in _places(source, path):
        rows[module] = max(rows.get(module, 0), part.stop)
    return rows


def _check(path: Path, term: LowRank, *, num_rows: int, num_inputs: int) -> None:
    has, wanted = (term.b.shape[0], term.a.shape[1]), (num_rows, num_inputs)
    if has != wanted:
        raise ModelLoadError(
            f"{path}: it is for another model: {term.module} has {has[0]} outputs and {has[1]} inputs there, "
            f"but {wanted[0]} and {wanted[1]} here"
        )
    if not 1 <= term.rank <= MAX_RANK:
        raise ModelLoadError(f"{path}: {term.module} has rank {term.rank}; adapters may have rank 1 to {MAX_RANK}")


def _packed_bytes(term: LowRank) -> int:
    """Bytes of A and B in the native kernels' form."""
    (num_outputs, rank), num_inputs = term.b.shape, term.a.shape[1]
    return (_padded(rank) * num_inputs + _padded(num_outputs) * rank) * term.a.item_bytes


def _padded(rows: int) -> int:
    return -(-rows // _TILE) * _TILE
