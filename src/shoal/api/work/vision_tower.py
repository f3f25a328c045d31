"""The vision part of a language model that is served or loaded: a graph in workers of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shoal.arrays import Array
from shoal.config import GraphLaunchConfig
from shoal.core.batching.config import BatchingConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import ConfigError
from shoal.generation.data_plane import DataPlane
from shoal.launch.loaded_model import LoadedModel
from shoal.machines.machines import Machines
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.formats.model_path import resolve_model
from shoal.model.vision.cut_picture import VisionModel
from shoal.model.vision.find_vision import find_vision
from shoal.model.vision.projector.projector_file import projector_beside
from shoal.model.vision.vision_files import VisionFiles
from shoal.vision.prompts import VisionPrompts

_NAME = "vision"
_DRAIN_TIMEOUT_S = 5.0
_DECODERS = {
    "qwen2_5_vl": ("qwen2_5_vl", "qwen2vl"),
    "qwen3_vl": ("qwen3_vl", "qwen3vl", "qwen3vlmoe"),
    "qwen3_vl_moe": ("qwen3_vl_moe",),
    "gemma3": ("gemma3",),
}
"""families of language models by those of vision parts"""
_logger = logging.getLogger("shoal.launch")


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionOptions:
    """How the vision part of a model is computed."""

    split: str = "1"
    """see `shoal.load`; a picture is computed by one replica"""
    threads: int | None = None
    """compute threads of a worker; None shares the machine's cores evenly"""
    allows_remote: bool = False
    """whether pictures may be fetched from other servers"""
    projector: Path | None = None
    """the vision part of a model in a GGUF file; None: the one beside it, where there is one"""
    recovery: RecoveryConfig | None = None
    """when its workers count as lost and how they are started again; None: the defaults"""


def vision_options(given: Mapping[str, Any]) -> VisionOptions | None:
    """What options say that are named as those of `LLMOptions`; None: the model is to take texts alone.

    Raises:
        ConfigError, ModelLoadError: `mmproj` is no file.
    """
    split, projector, timeout_s = given.get("vision_split", "1"), given.get("mmproj"), given.get("worker_timeout")
    if split is None:
        return None
    return VisionOptions(
        split=split,
        threads=given.get("threads"),
        allows_remote=given.get("allow_remote_media", False),
        recovery=None if timeout_s is None else RecoveryConfig(worker_timeout_s=timeout_s),
        projector=None if projector is None else resolve_model(str(projector)),
    )


class TowerAtWork:
    """Implements `vision.prompts.Tower`. Its workers are there from the beginning."""

    def __init__(self, model: VisionModel, options: VisionOptions, machines: Machines | None = None) -> None:
        """
        Args:
            model: to compute.
            options: how.
            machines: where its workers may be, which are left with it; None: this machine.

        Raises:
            ConfigError, CapacityError, ModelLoadError, WorkerLost: as `plan_graph` and `launch_graph`.
        """
        from shoal.inference.model_files import ModelFile
        from shoal.inference.served_model import ServedModel
        from shoal.launch.graph.launch import launch_graph  # with ONNX Runtime, which few language models need
        from shoal.launch.graph.planning import plan_graph

        config = GraphLaunchConfig(
            model=str(model.graph), split=options.split, threads=options.threads, is_batched=False, in_process=False
        )
        planned = plan_graph(config, given=model.sample(), machines=machines)
        loaded = launch_graph(planned, recovery=options.recovery)
        if where := dict.fromkeys(shard.machine for shard in loaded.plan.shards if shard.machine):
            _logger.info("pictures are computed on %s", ", ".join(where))
        file = ModelFile(name=_NAME, version="1", path=model.graph)
        self._served = ServedModel(file, loaded, BatchingConfig())

    def start(self) -> None:
        """See `Tower.start`."""
        self._served.start(lambda reason: _logger.error("no picture can be computed any more: %s", reason))

    async def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `Tower.infer`."""
        return await self._served.infer(inputs)

    async def close(self) -> None:
        """See `Tower.close`."""
        await self._served.drain(_DRAIN_TIMEOUT_S)
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """The same at once, for one that is not started or does nothing any more."""
        self._served.stop("the model was closed")
        self._served.close()


def attach_vision(data_plane: DataPlane, loaded: LoadedModel, options: VisionOptions) -> None:
    """Start the vision part of a loaded model that has one; the data plane takes pictures then.

    Args:
        data_plane: of the model. It is not started yet.
        loaded: the model.
        options: how.

    Raises:
        As `TowerAtWork`, and ModelLoadError as `open_vision`; ConfigError where the projector that was given is of
        another model.
    """
    if options.projector is not None and loaded.path.is_dir():
        raise ConfigError(
            f"--mmproj is for models in GGUF files; the vision part of {loaded.path}, if there is one, is among "
            "its own files"
        )
    files = find_vision(loaded.path, options.projector or projector_beside(loaded.path))
    if files is None:
        return
    from shoal.model.vision.open_vision import open_vision  # with `onnx`, which builds its graph

    model = open_vision(files)
    if (reason := _reason_against(loaded, files, model)) is not None:
        if options.projector is not None:
            raise ConfigError(f"--mmproj {options.projector}: {reason}")
        _logger.warning("pictures are not taken: %s", reason)
        return
    machines = None if loaded.machines is None else loaded.machines.for_another_model()
    tower = TowerAtWork(model, options, machines)
    try:
        data_plane.pictures = VisionPrompts(
            data_plane,
            model,
            tower,
            allows_remote=options.allows_remote,
        )
    except BaseException:
        tower.stop()
        raise


def _reason_against(loaded: LoadedModel, files: VisionFiles, model: VisionModel) -> str | None:
    """Why a model that sees can be given texts alone; None: it can be given pictures."""
    if any(shard.device for shard in loaded.plan.shards):
        return "layers on a device get tokens alone"
    if find_spec("PIL") is None:
        return "Pillow is not installed (the extra `vision`)"
    if loaded.decoder.family not in _DECODERS[files.family] or model.num_columns != loaded.decoder.hidden_size:
        return f"{files.settings.path} is of another model"
    if model.has_axes and not loaded.decoder.rope.axes:
        return "the model's files do not say which frequencies turn by height and width"
    if model.num_deep_layers and not ForcedForm.of(os.environ).is_native:
        return "the native extension is needed to add to rows between layers"
    return None
