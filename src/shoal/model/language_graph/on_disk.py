"""A language model that is an ONNX graph, with the same interface as other models on disk."""

from __future__ import annotations

from pathlib import Path

from shoal.core.plan.language import Block
from shoal.errors import ConfigError
from shoal.model.decoder.process_bytes import StageWork
from shoal.model.decoder_config import DecoderConfig
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.identity import graph_digest
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.language_graph.detect import text_folder
from shoal.model.language_graph.session import describe
from shoal.model.language_graph.settings import graph_blocks, graph_process_bytes
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision, WeightSource
from shoal.protocol.stage_config import ShardPart

_SHOWN_DIGITS = 12


class GraphOnDisk(ModelOnDisk):
    """A `ModelOnDisk` whose weights only ONNX Runtime reads: it has sizes, but cannot be cut."""

    is_graph = True

    def __init__(self, path: Path, *, name: str) -> None:
        """Read the graph's form and the settings beside it.

        Args:
            path: of the ONNX file.
            name: the name that the user gave.

        Raises:
            ModelLoadError: the file is broken or not a language model, or its settings or tokenizer are missing.
        """
        graph = open_graph(path)
        self.path, self.name, self.files = path, name, graph.files
        self.text_path = text_folder(path)
        self._form, self._config = describe(graph)
        self._weight_bytes = weight_bytes(graph, 0, graph.num_nodes)
        self._shape = (
            f"{self._config.family} as an ONNX graph, {self._form.num_layers} layers, "
            f"{self._config.vocab_size} tokens, {graph_digest(graph)[:_SHOWN_DIGITS]}"
        )

    @property
    def source(self) -> WeightSource:
        """Raises ConfigError: single weights cannot be read."""
        raise ConfigError(f"{self.name}: the weights of an ONNX graph are not read one by one")

    @property
    def config(self) -> DecoderConfig:
        """What is known about the model."""
        return self._config

    @property
    def shape(self) -> str:
        """See `ModelOnDisk.shape`."""
        return self._shape

    def blocks(
        self, precision: Precision, part: ShardPart | None = None, *, exact_activations: bool = False
    ) -> tuple[Block, ...]:
        """See `ModelOnDisk.blocks`. The result is the same for all arguments."""
        return graph_blocks(self._form, self._weight_bytes)

    def process_bytes(self, work: StageWork, part: ShardPart | None = None) -> int:
        """See `ModelOnDisk.process_bytes`."""
        return graph_process_bytes(self._config, max_step_tokens=work.num_rows)

    def close(self) -> None:
        """Does nothing, since no file is open."""
