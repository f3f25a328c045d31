"""The server's and its models' descriptions as plain data: metadata and Triton's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.core.plan.graph import BatchAxes
from shoal.inference.repository import ModelRepository
from shoal.inference.served_model import ServedModel
from shoal.protocol.stage_interface import Dim, TensorSpec
from shoal.server.http.health.probes import server_version
from shoal.server.oip.datatypes import BYTES, datatype_of_spec

SERVER_NAME = "shoal"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "parameters", "statistics")
"""Source: Triton, names of the protocol extensions."""

PLATFORM = "onnxruntime_onnx"
"""Source: Triton's name for ONNX models, which its clients handle."""

_UNKNOWN_SIZE = -1


def server_metadata() -> dict[str, Any]:
    """The server's name, version and extensions."""
    return {"name": SERVER_NAME, "version": server_version(), "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Inputs and outputs with their full shapes, including the batch axis; -1 for a free size."""
    return {
        "name": model.file.name,
        "versions": [model.file.version],
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(spec) for spec in model.plan.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.plan.outputs],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """Triton's model configuration, with the entries that apply here. Its `dims` leave out a leading batch axis."""
    plan, is_batched = model.plan, has_leading_batch(model.plan.batch)
    skip = 1 if is_batched else 0
    config: dict[str, Any] = {
        "name": model.file.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": model.batching.max_batch if is_batched else 0,
        "input": [_config_input(spec, skip) for spec in plan.inputs],
        "output": [_config_tensor(spec, skip) for spec in plan.outputs],
    }
    if is_batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": round(model.batching.batch_delay_s * 1e6)}
    return config


def repository_index(repository: ModelRepository, *, only_ready: bool) -> list[dict[str, str]]:
    """One object for each model."""
    return [
        {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
        for entry in repository.index(only_ready=only_ready)
    ]


def has_leading_batch(batch: BatchAxes) -> bool:
    """Whether every input and output has its rows along axis 0, in any number, which is what Triton calls batching."""
    axes: Sequence[int | None] = (*batch.inputs.values(), *batch.outputs.values())
    return batch.is_batched and batch.rows is None and all(axis == 0 for axis in axes)


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of_spec(spec), "shape": _sizes(spec.shape)}


def _config_input(spec: TensorSpec, skip: int) -> dict[str, Any]:
    return _config_tensor(spec, skip) | ({"optional": True} if spec.is_optional else {})


def _config_tensor(spec: TensorSpec, skip: int) -> dict[str, Any]:
    datatype = datatype_of_spec(spec)
    kind = "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
    return {"name": spec.name, "data_type": kind, "dims": _sizes(spec.shape)[skip:]}


def _sizes(shape: tuple[Dim, ...] | None) -> list[int]:
    """Sizes as the protocol writes them; an unknown rank is written as one free size, for lack of anything better."""
    if shape is None:
        return [_UNKNOWN_SIZE]
    return [size if isinstance(size, int) else _UNKNOWN_SIZE for size in shape]
