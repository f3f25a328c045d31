"""Opens a stage of a language model from its files, whatever their format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from shoal.arrays import F32
from shoal.core.collectives import SummingGroup
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.open_weights import open_weights
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import AdapterFile, SampledToken, Step
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.step_masks import Masks


class LanguageStage(Protocol):
    """What a worker needs of a stage: see `model.decoder.stage.Stage`."""

    vocab_size: int
    decoder: DecoderConfig

    @property
    def note(self) -> str | None:
        """What a user should know about how the stage is computed; None: nothing."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Resident bytes of weights."""
        ...

    @property
    def alignment(self) -> bytes:
        """Attention weights of this stage's alignment heads in the latest step: see `StepResult.alignment`."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether the stage takes tokens rather than hidden states."""
        ...

    def process(
        self, step: Step, x_TD: F32 | None = None, masks: Masks | None = None
    ) -> F32 | tuple[SampledToken, ...]:
        """Run one step."""
        ...

    def expert_rows(self) -> list[list[int]]:
        """For each layer, how many rows have chosen each expert so far."""
        ...


def open_stage(
    path: Path,
    config: StageConfig,
    on_progress: Callable[[int, int], None],
    *,
    source: WeightSource | None = None,
    group: SummingGroup | None = None,
    kept: KeptWeights | None = None,
    form: ForcedForm | None = None,
    adapters: Sequence[AdapterFile] = (),
) -> LanguageStage:
    """Load a stage.

    Args:
        path: of the model's files: an ONNX graph, a GGUF file or a folder.
        config: what the stage holds.
        on_progress: called with (done, total) pieces of weights.
        source: the weights, if they are already open.
        group, kept, form, adapters: see `model.decoder.stage.Stage`; a graph uses only the device of `form`.

    Raises:
        ModelLoadError: a weight is missing, broken or of an unknown kind.
    """
    if path.suffix == ".onnx":
        from shoal.model.language_graph.stage import GraphDecoder  # with ONNX Runtime

        return GraphDecoder(path, config, on_progress, None if form is None else form.device)
    from shoal.model.decoder.stage import Stage

    return Stage(source or open_weights(path), config, on_progress, group, kept, form, adapters)
