"""A language model's files: opened in one place, their sizes read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from shoal.core.plan.language import Block
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.model.adapter.adapter import Adapter
from shoal.model.adapter.files import with_adapters
from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.decoder.process_bytes import StageWork, process_parts
from shoal.model.decoder_config import DecoderConfig
from shoal.model.file_states import model_states
from shoal.model.formats.open_weights import open_weights
from shoal.model.shard.atoms import shard_atoms, whole_part
from shoal.model.shard.source import ShardSource
from shoal.model.weights import Precision, WeightSource
from shoal.protocol.language_messages import AdapterFile
from shoal.protocol.stage_config import ShardPart


class ModelOnDisk:
    """A model's path, its opened files, and the bytes of its blocks at each precision.

    Only headers are read. After `close`, the files are opened again when they are next needed.
    """

    is_graph = False
    """Whether the model is an ONNX graph, which is computed whole and as the file has it."""
    adapters: tuple[AdapterFile, ...] = ()
    """Adapters that requests may ask for, and those that are merged into the weights."""

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        open_source: Callable[[Path], WeightSource] = open_weights,
        adapters: Sequence[AdapterFile] = (),
    ) -> None:
        """Open the files.

        Args:
            path: from `resolve_model`.
            name: the name that the user gave; None: the path.
            open_source: reads the headers.
            adapters: LoRA adapters that requests may ask for or that are merged into the weights.

        Raises:
            ModelLoadError: a file is missing, broken or of an unknown kind, or an adapter belongs to another model.
        """
        self.path = path
        self.text_path = path
        """Path of the tokenizer's files."""
        self.name = str(path) if name is None else name
        self.files = model_states(path)
        """The files' states when the model was opened first."""
        self.adapters = tuple(adapters)
        self._open = open_source
        self._opened: tuple[WeightSource, WeightSource, list[Adapter]] | None = self._open_all()
        self._blocks: dict[tuple[Precision, ShardPart, bool], tuple[Block, ...]] = {}

    @property
    def source(self) -> WeightSource:
        """The opened weights, with merged adapters."""
        return self._all[1]

    @property
    def file_source(self) -> WeightSource:
        """The opened weights as the files have them."""
        return self._all[0]

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for, in the order of their numbers."""
        return tuple(one.name for one in self.adapters if not one.is_merged)

    def adapter_bytes(self, layer: int, part: ShardPart | None = None) -> tuple[int, int]:
        """Bytes of adapters beside a layer's attention and beside its MLP. `part`: the shard's part; None: the whole
        layer."""
        file_source, _, adapters = self._all
        own = file_source if part is None or part == self.whole else ShardSource(file_source, part)
        held = [adapter.layer_bytes(own, layer) for adapter in adapters]
        return sum(attention for attention, _ in held), sum(mlp for _, mlp in held)

    @property
    def total_adapter_bytes(self) -> int:
        """Bytes of adapters beside the whole model."""
        return sum(sum(self.adapter_bytes(layer)) for layer in range(self.config.num_layers)) if self.adapters else 0

    @property
    def _all(self) -> tuple[WeightSource, WeightSource, list[Adapter]]:
        if self._opened is None:
            self._opened = self._open_all()
        return self._opened

    def _open_all(self) -> tuple[WeightSource, WeightSource, list[Adapter]]:
        file_source = self._open(self.path)
        return (file_source, *with_adapters(file_source, self.adapters))

    @property
    def config(self) -> DecoderConfig:
        """Settings of the whole model."""
        return self.source.config

    @property
    def atoms(self) -> ShardAtoms:
        """The pieces into which the model can be cut."""
        return shard_atoms(self.config)

    @property
    def whole(self) -> ShardPart:
        """The part that is the whole model."""
        return whole_part(self.config)

    @property
    def shape(self) -> str:
        """The model's shape in one line: for people, and to tell whether a stored plan belongs to the model."""
        config = self.config
        return (
            f"{config.family}, {config.num_layers} layers of {config.hidden_size}, {config.num_heads} heads in "
            f"{config.num_head_groups} groups, {config.intermediate_size} MLP columns, {config.vocab_size} tokens"
        )

    def longest_context(self, asked: int | None) -> int:
        """Longest sequence in tokens: what the user asked for, but at most the model's context, which is also the
        default."""
        return min(asked or self.config.max_context, self.config.max_context)

    def blocks(
        self, precision: Precision, part: ShardPart | None = None, *, exact_activations: bool = False
    ) -> tuple[Block, ...]:
        """The embedding, the layers and the head as a worker holds them. Computed once for each set of arguments.

        Args:
            precision: of the matrices.
            part: the worker's part of every matrix; None: all of it.
            exact_activations: see `StageConfig`.
        """
        part = part or self.whole
        key = (precision, part, exact_activations)
        if key not in self._blocks:
            own = self.source if part == self.whole else ShardSource(self.source, part)
            self._blocks[key] = tuple(
                replace(block, weight_bytes=block.weight_bytes + self._beside(block, part))
                for block in decoder_blocks(own, precision, exact_activations=exact_activations)
            )
        return self._blocks[key]

    def process_bytes(self, work: StageWork, part: ShardPart | None = None) -> int:
        """Bytes of the process beside weights and KV cache of a worker that computes `work`.

        `part`: the worker's part of every matrix; None: all of it.
        """
        ranks = max((adapter.max_ranks for adapter in self._all[2]), default=0)
        config = self.config if part is None else ShardSource(self.source, part).config
        return process_parts(config, replace(work, adapter_ranks=ranks)).total

    def _beside(self, block: Block, part: ShardPart) -> int:
        """Bytes of adapters beside a block's own weights."""
        _, is_layer, number = block.name.partition("layer.")
        return sum(self.adapter_bytes(int(number), part)) if is_layer and self.adapters else 0

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._opened = None
